//! Errors with paths, warnings, and the walk that knows where it is.
//!
//! A parser gets a [`Cx`] that holds the path of the field being read. [`Cx::invalid`] ends the resource (the control
//! plane gets a NACK that names it); [`Cx::warn`] lets it live and is counted and shown.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use malla_xds_proto::typed_struct::{UdpaTypedStruct, XdsTypedStruct};
use malla_xds_proto::{any, json, type_url};
use prost::{Message, Name};

use crate::metadata::{Object, parse_struct};
use crate::pb::{Any, google};
use crate::runtime::Values;

/// Why a resource cannot be used: the path inside the resource and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct Invalid {
    /// Dotted field path in proto spelling, such as `filter_chains[0].filters[1].typed_config`.
    pub path: String,
    /// What was found and what is accepted.
    pub reason: String,
}

/// Something left out that changes no answer: shown to the operator, not refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// As in [`Invalid::path`].
    pub path: String,
    /// What is not honoured.
    pub reason: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.reason)
    }
}

/// A parsed resource with what was left out on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked<T> {
    /// The value, usable as it is.
    pub value: T,
    /// Degradations, in the order they were found.
    pub warnings: Vec<Warning>,
}

/// Where a parser is, and what it has warned about so far.
#[derive(Debug, Default)]
pub struct Cx {
    path: String,
    warnings: Vec<Warning>,
    pub(crate) runtime: Arc<Values>,
    runtime_used: DefaultHasher,
}

impl Cx {
    /// Runs `parse` on a whole resource and collects its warnings.
    pub fn check<T>(
        parse: impl FnOnce(&mut Self) -> Result<T, Invalid>,
    ) -> Result<Checked<T>, Invalid> {
        let mut cx = Self::default();
        let value = parse(&mut cx)?;
        Ok(Checked {
            value,
            warnings: cx.warnings,
        })
    }

    /// Runs `parse` one field deeper.
    pub fn field<T>(&mut self, name: &str, parse: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if !self.path.is_empty() {
            self.path.push('.');
        }
        self.path.push_str(name);
        let out = parse(self);
        self.path.truncate(length);
        out
    }

    /// Parses each item of a repeated field, at `name[index]`.
    pub fn each<I, T, C: FromIterator<T>>(
        &mut self,
        name: &str,
        items: impl IntoIterator<Item = I>,
        mut parse: impl FnMut(I, &mut Self) -> Result<T, Invalid>,
    ) -> Result<C, Invalid> {
        let items = items.into_iter();
        // A list that is collected out of another one keeps its room: messages take twenty times as much.
        let mut out = Vec::with_capacity(items.size_hint().0);
        for (index, item) in items.enumerate() {
            out.push(self.field(&format!("{name}[{index}]"), |cx| parse(item, cx))?);
        }
        Ok(out.into_iter().collect())
    }

    /// Notes that the resource depends on a runtime value.
    pub(crate) fn note_runtime(&mut self, key: &str, value: &str) {
        (key, value).hash(&mut self.runtime_used);
    }

    /// Differs between two readings of a resource if runtime values in between made a difference.
    pub(crate) fn runtime_used(&self) -> u64 {
        self.runtime_used.finish()
    }

    /// The error for `field` below the current path; an empty `field` means the current path itself.
    pub fn invalid(&self, field: &str, reason: impl Into<String>) -> Invalid {
        Invalid {
            path: self.join(field),
            reason: reason.into(),
        }
    }

    /// Notes that `field` is not honoured although set, where that is harmless.
    pub fn warn(&mut self, field: &str, reason: impl Into<String>) {
        let path = self.join(field);
        self.warnings.push(Warning {
            path,
            reason: reason.into(),
        });
    }

    /// Refuses `field` if it is set at all: this proxy does not implement it.
    pub fn unset<T: Default + PartialEq>(&self, field: &str, value: &T) -> Result<(), Invalid> {
        if *value == T::default() {
            return Ok(());
        }
        Err(self.invalid(
            field.trim_start_matches("r#"),
            "not supported by this proxy; remove the field",
        ))
    }

    /// Warns if `field` is set: leaving it out is harmless.
    pub fn ignorable<T: Default + PartialEq>(&mut self, field: &str, value: &T) {
        if *value != T::default() {
            self.warn(
                field.trim_start_matches("r#"),
                "has no effect in this proxy",
            );
        }
    }

    /// The value of a field that must be set.
    pub fn required<T>(&self, field: &str, value: Option<T>) -> Result<T, Invalid> {
        value.ok_or_else(|| self.invalid(field, "is required"))
    }

    /// A protobuf duration that must not be negative.
    pub fn duration(
        &self,
        field: &str,
        value: Option<google::Duration>,
    ) -> Result<Option<Duration>, Invalid> {
        let Some(value) = value else { return Ok(None) };
        let seconds = u64::try_from(value.seconds);
        let nanos = u32::try_from(value.nanos);
        match (seconds, nanos) {
            (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => {
                Ok(Some(Duration::new(seconds, nanos)))
            }
            _ => Err(self.invalid(field, "must be a duration of zero or more")),
        }
    }

    /// An enum value known to this build.
    pub fn enumeration<E: TryFrom<i32>>(&self, field: &str, value: i32) -> Result<E, Invalid> {
        E::try_from(value).map_err(|_| self.invalid(field, format!("{value} is not a known value")))
    }

    /// A port number.
    pub fn port(&self, field: &str, value: u32) -> Result<u16, Invalid> {
        u16::try_from(value)
            .map_err(|_| self.invalid(field, format!("{value} is not a port (0 to 65535)")))
    }

    /// The message inside an `Any`, which must be an `M` (or a `TypedStruct` that says it is one).
    pub fn unpack<M: Message + Name + Default>(
        &self,
        field: &str,
        any: &Any,
    ) -> Result<M, Invalid> {
        let unpacked = match typed_struct(any) {
            Some((type_url, value)) => return self.unpack_json(field, &type_url, value),
            None => any::unpack(any),
        };
        unpacked.map_err(|error| self.invalid(field, error.to_string()))
    }

    fn unpack_json<M: Message + Name + Default>(
        &self,
        field: &str,
        type_url: &str,
        mut value: serde_json::Value,
    ) -> Result<M, Invalid> {
        if let serde_json::Value::Object(object) = &mut value {
            object.insert("@type".into(), type_url.into());
        }
        let any =
            json::any_from_value(value).map_err(|error| self.invalid(field, error.to_string()))?;
        any::unpack(&any).map_err(|error| self.invalid(field, error.to_string()))
    }

    fn join(&self, field: &str) -> String {
        match (self.path.is_empty(), field.is_empty()) {
            (_, true) => self.path.clone(),
            (true, false) => field.to_owned(),
            (false, false) => format!("{}.{field}", self.path),
        }
    }
}

/// What an `Any` really holds: the type inside a `TypedStruct`, else its own.
pub(crate) fn type_name(any: &Any) -> String {
    let url = typed_struct(any).map_or_else(|| any.type_url.clone(), |(url, _)| url);
    type_url::message_name(&url).to_owned()
}

fn typed_struct(any: &Any) -> Option<(String, serde_json::Value)> {
    let (type_url, value) = if let Ok(wire) = any::unpack::<XdsTypedStruct>(any) {
        (wire.type_url, wire.value)
    } else {
        let wire = any::unpack::<UdpaTypedStruct>(any).ok()?;
        (wire.type_url, wire.value)
    };
    Some((type_url, to_json(parse_struct(value.unwrap_or_default()))))
}

fn to_json(object: Object) -> serde_json::Value {
    object
        .into_iter()
        .map(|(key, value)| (key, value.into_json()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Refuses every named local if it is not its type's default.
macro_rules! refuse {
    ($cx:expr; $($field:ident),+ $(,)?) => { $( $cx.unset(stringify!($field), &$field)?; )+ };
}
/// Warns for every named local that is not its type's default.
macro_rules! ignorable {
    ($cx:expr; $($field:ident),+ $(,)?) => { $( $cx.ignorable(stringify!($field), &$field); )+ };
}
/// [`refuse`] for locals that are references.
macro_rules! refuse_refs {
    ($cx:expr; $($field:ident),+ $(,)?) => { $( $cx.unset(stringify!($field), $field)?; )+ };
}
/// [`ignorable`] for locals that are references.
macro_rules! ignorable_refs {
    ($cx:expr; $($field:ident),+ $(,)?) => { $( $cx.ignorable(stringify!($field), $field); )+ };
}
pub(crate) use {ignorable, ignorable_refs, refuse, refuse_refs};

#[cfg(test)]
mod tests {
    use super::{Cx, Invalid};

    #[test]
    fn errors_and_warnings_carry_the_whole_path() {
        let error = Cx::check(|cx| {
            cx.each::<_, (), Vec<_>>("routes", [1, 2], |item, cx| {
                cx.field("match", |cx| {
                    if item == 2 {
                        Err(cx.invalid("prefix", "is empty"))
                    } else {
                        Ok(())
                    }
                })
            })
        })
        .unwrap_err();
        assert_eq!(
            error,
            Invalid {
                path: "routes[1].match.prefix".into(),
                reason: "is empty".into()
            }
        );

        let checked = Cx::check(|cx| {
            cx.field("a", |cx| cx.warn("b", "unused"));
            Ok(())
        })
        .unwrap();
        assert_eq!(checked.warnings[0].to_string(), "a.b: unused");
    }

    #[test]
    fn lists_do_not_keep_the_room_of_their_messages() {
        let messages = vec![[0_u8; 4096]; 100];
        let checked =
            Cx::check(|cx| cx.each::<_, u8, Vec<_>>("x", messages, |item, _| Ok(item[0])));
        assert!(checked.unwrap().value.capacity() < 200);
    }
}
