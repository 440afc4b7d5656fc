//! What the proxy keeps beside a piece of configuration for as long as that lives: token buckets, counts.
//!
//! A new version of a resource comes with new cells, so what it limits starts anew, as in Envoy; one that is shared by
//! two snapshots or by several workers is the same cell for all.
//!
//! Invariant: one kind of configuration keeps one type of thing, made by the first who asks.

use std::any::Any;
use std::fmt;
use std::sync::OnceLock;

/// A cell that starts empty; copies of a configuration start with an empty one of their own.
#[derive(Default)]
pub struct Held(OnceLock<Box<dyn Any + Send + Sync>>);

impl Held {
    /// What is kept, made now if nobody asked before; `None` if something of another type is kept.
    pub fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.0.get_or_init(|| Box::new(make())).downcast_ref()
    }
}

impl Clone for Held {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What is kept is no part of the configuration.
impl PartialEq for Held {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() {
            "Held(..)"
        } else {
            "Held"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Held;

    #[test]
    fn the_first_makes_it_and_a_copy_starts_anew() {
        let held = Held::default();
        assert_eq!(held.get_or_make(|| 1_u32), Some(&1));
        assert_eq!(held.get_or_make(|| 2_u32), Some(&1));
        assert_eq!(held.get_or_make(|| "else"), None);
        assert_eq!(held.clone().get_or_make(|| 3_u32), Some(&3));
    }
}
