//! Puts the map entries of an encoded message in order of their keys.
//!
//! Prost keeps maps in hash tables with random seeds, so encoding one message twice gives different
//! bytes, and a content hash over them would change with every push. Reordering entries changes no
//! length, so it is done in place, along plans which `build.rs` derives from the descriptors:
//! where, below each message, maps lie. Messages inside an `Any` were sorted when they were packed.

use std::ops::Range;

/// Where maps lie below one message.
pub(crate) struct Plan {
    name: &'static str,
    fields: &'static [Field],
}

struct Field {
    number: u64,
    kind: Kind,
}

/// What a field leads to; numbers are indices into `PLANS`.
enum Kind {
    Message(usize),
    /// A map; `Some` where its entries have maps below them.
    Map(Option<usize>),
}

include!(concat!(env!("OUT_DIR"), "/map_plans.rs"));

/// Deeper messages than prost would decode are left as they are.
const MAX_DEPTH: usize = 100;

/// Sorts all maps of the message `name` whose encoding is `bytes`.
pub(crate) fn sort_maps(name: &str, bytes: &mut [u8]) {
    if let Ok(at) = PLANS.binary_search_by(|plan| plan.name.cmp(name)) {
        sort(at, bytes, MAX_DEPTH);
    }
}

fn sort(plan: usize, bytes: &mut [u8], depth: usize) {
    let Some(plan) = PLANS.get(plan).filter(|_| depth > 0) else {
        return;
    };
    let mut at = 0;
    while let Some(record) = next_record(bytes, at) {
        at = record.whole.end;
        let Some(field) = plan.fields.iter().find(|f| f.number == record.number) else {
            continue;
        };
        match field.kind {
            Kind::Message(below) => {
                if let Some(payload) = bytes.get_mut(record.payload) {
                    sort(below, payload, depth - 1);
                }
            }
            Kind::Map(below) => at = sort_entries(bytes, record, below, depth),
        }
    }
}

/// Sorts the run of entries that starts with `first`; returns where the run ends.
fn sort_entries(bytes: &mut [u8], first: Record, below: Option<usize>, depth: usize) -> usize {
    let (number, start) = (first.number, first.whole.start);
    let mut entries = vec![first];
    let mut end = start;
    loop {
        if let Some(entry) = entries.last() {
            end = entry.whole.end;
            if let (Some(below), Some(payload)) = (below, bytes.get_mut(entry.payload.clone())) {
                sort(below, payload, depth - 1);
            }
        }
        match next_record(bytes, end) {
            Some(next) if next.number == number => entries.push(next),
            _ => break,
        }
    }
    if entries.len() > 1 {
        entries.sort_by(|a, b| key(bytes, a).cmp(key(bytes, b)));
        let sorted: Vec<u8> = entries
            .iter()
            .flat_map(|entry| bytes.get(entry.whole.clone()).unwrap_or_default())
            .copied()
            .collect();
        if let Some(run) = bytes.get_mut(start..end)
            && run.len() == sorted.len()
        {
            run.copy_from_slice(&sorted);
        }
    }
    end
}

/// The key of a map entry; an empty key is left out of the encoding.
fn key<'a>(bytes: &'a [u8], entry: &Record) -> &'a [u8] {
    let payload = bytes.get(entry.payload.clone()).unwrap_or_default();
    match next_record(payload, 0) {
        Some(record) if record.number == 1 => payload.get(record.payload).unwrap_or_default(),
        _ => &[],
    }
}

/// One field of an encoded message.
pub(crate) struct Record {
    pub(crate) number: u64,
    pub(crate) whole: Range<usize>,
    /// Without tag and length.
    pub(crate) payload: Range<usize>,
}

/// The field that starts there.
pub(crate) fn next_record(bytes: &[u8], start: usize) -> Option<Record> {
    let mut at = start;
    let tag = varint(bytes, &mut at)?;
    let length = match tag & 7 {
        0 => {
            let mut end = at;
            varint(bytes, &mut end)?;
            end - at
        }
        1 => 8,
        2 => usize::try_from(varint(bytes, &mut at)?).ok()?,
        5 => 4,
        _ => return None,
    };
    let end = at.checked_add(length).filter(|end| *end <= bytes.len())?;
    Some(Record {
        number: tag >> 3,
        whole: start..end,
        payload: at..end,
    })
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::sort_maps;
    use crate::nds::{NameInfo, NameTable};

    #[test]
    fn entries_are_sorted_and_nothing_else_changes() {
        let table = NameTable {
            table: ["b", "", "a", "c", "aa"]
                .map(|name| {
                    (
                        name.to_owned(),
                        NameInfo {
                            ips: vec![format!("ip of {name}")],
                            ..NameInfo::default()
                        },
                    )
                })
                .into(),
        };
        let mut bytes = table.encode_to_vec();
        sort_maps("istio.networking.nds.v1.NameTable", &mut bytes);
        assert_eq!(NameTable::decode(&*bytes).unwrap(), table);
        let text = String::from_utf8_lossy(&bytes);
        let at = ["ip of a", "ip of aa", "ip of b", "ip of c"]
            .iter()
            .map(|ip| text.find(ip).unwrap())
            .collect::<Vec<_>>();
        assert!(at.is_sorted(), "{text:?}");
    }

    #[test]
    fn bytes_that_are_no_message_are_left_alone() {
        for garbage in [&b"\xff\xff\xff"[..], b"\x0a\xff", b"\x0a\x05ab", b"\x0f"] {
            let mut bytes = garbage.to_vec();
            sort_maps("istio.networking.nds.v1.NameTable", &mut bytes);
            assert_eq!(bytes, garbage);
        }
    }
}
