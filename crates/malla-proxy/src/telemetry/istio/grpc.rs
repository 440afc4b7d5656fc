//! Messages in a gRPC body, counted while it passes: five bytes of head say how long each is.

/// Where a body is between its messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Messages {
    /// Messages that have begun.
    pub count: u64,
    /// Bytes of the head read so far.
    head: u8,
    length: u32,
    /// Bytes of the message still to come.
    left: u32,
}

const HEAD: u8 = 5;

impl Messages {
    /// Looks at the next bytes of the body.
    pub fn see(&mut self, mut data: &[u8]) {
        while let Some((first, rest)) = data.split_first() {
            if self.left > 0 {
                let skip = data.len().min(self.left as usize);
                self.left -= skip as u32;
                data = data.get(skip..).unwrap_or_default();
                continue;
            }
            if self.head == 0 {
                self.count += 1;
            }
            // The first byte says whether the message is compressed, the next four how long it is.
            if self.head == 0 {
                self.length = 0;
            } else {
                self.length = self.length << 8 | u32::from(*first);
            }
            self.head += 1;
            data = rest;
            if self.head == HEAD {
                self.head = 0;
                self.left = self.length;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Messages;

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(
            lengths in prop::collection::vec(0usize..300, 0..20),
            cuts in prop::collection::vec(1usize..50, 1..50),
        ) {
            let mut body = Vec::new();
            for length in &lengths {
                body.push(0);
                body.extend(u32::try_from(*length).unwrap().to_be_bytes());
                body.extend(vec![7; *length]);
            }
            let mut messages = Messages::default();
            let mut rest = &body[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                messages.see(now);
                rest = later;
            }
            prop_assert_eq!(messages.count, lengths.len() as u64);
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Messages::default().see(&bytes);
        }
    }
}
