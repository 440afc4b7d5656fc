//! What a message type looks like, read off the descriptors when a document needs it.
//!
//! The descriptors stay encoded: to find a type is to skim the files of its package. Only the types that one document uses are
//! decoded, and they are forgotten with it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto};

use super::DESCRIPTORS;
use crate::canonical::next_record;

/// Numbers of fields in `FileDescriptorSet`, `FileDescriptorProto`, `DescriptorProto`.
const FILE: u64 = 1;
const PACKAGE: u64 = 2;
const MESSAGE: u64 = 4;
const ENUM: u64 = 5;
const NAME: u64 = 1;

/// The types that were asked for so far.
#[derive(Default)]
pub(super) struct Schema {
    messages: RefCell<HashMap<String, Option<Rc<MessageType>>>>,
    enums: RefCell<HashMap<String, Option<Rc<EnumType>>>>,
}

#[derive(Debug)]
pub(super) struct MessageType {
    fields: Vec<Field>,
    /// By either spelling of the name, indices into `fields`.
    by_name: HashMap<String, usize>,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
    /// Repeated entries of key and value.
    pub(super) map: bool,
    /// It is written even where it has its type's default value.
    pub(super) explicit: bool,
    /// Which of the message's choices it belongs to.
    pub(super) oneof: Option<i32>,
}

#[derive(Debug)]
pub(super) enum Kind {
    Scalar(Type),
    Message(String),
    Enum(String),
}

#[derive(Debug)]
pub(super) struct EnumType(HashMap<String, i32>);

impl Schema {
    /// A message by its full name.
    pub(super) fn message(&self, name: &str) -> Option<Rc<MessageType>> {
        let mut known = self.messages.borrow_mut();
        if let Some(found) = known.get(name) {
            return found.clone();
        }
        let found =
            find_message(name).map(|descriptor| Rc::new(MessageType::new(name, descriptor)));
        known.insert(name.to_owned(), found.clone());
        found
    }

    pub(super) fn enumeration(&self, name: &str) -> Option<Rc<EnumType>> {
        let mut known = self.enums.borrow_mut();
        if let Some(found) = known.get(name) {
            return found.clone();
        }
        let found = find_enum(name).map(|descriptor| Rc::new(EnumType::new(descriptor)));
        known.insert(name.to_owned(), found.clone());
        found
    }
}

impl MessageType {
    fn new(full_name: &str, descriptor: DescriptorProto) -> Self {
        let entries: Vec<String> = descriptor
            .nested_type
            .iter()
            .filter(|nested| nested.options.as_ref().is_some_and(|it| it.map_entry()))
            .map(|nested| format!("{full_name}.{}", nested.name()))
            .collect();
        let mut by_name = HashMap::new();
        let mut fields = Vec::with_capacity(descriptor.field.len());
        for field in descriptor.field {
            let json = field.json_name.clone();
            by_name.insert(json.unwrap_or_else(|| camel(field.name())), fields.len());
            by_name.insert(field.name().to_owned(), fields.len());
            fields.push(Field::new(field, &entries));
        }
        Self { fields, by_name }
    }

    /// A field as JSON (`camelCase`) or the definition (`snake_case`) names it.
    pub(super) fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(*self.by_name.get(name)?)
    }

    pub(super) fn by_number(&self, number: u32) -> Option<&Field> {
        self.fields.iter().find(|field| field.number == number)
    }
}

impl Field {
    fn new(field: FieldDescriptorProto, map_entries: &[String]) -> Self {
        let type_name = field.type_name().trim_start_matches('.').to_owned();
        let repeated = field.label() == Label::Repeated;
        Self {
            number: u32::try_from(field.number()).unwrap_or_default(),
            map: repeated && map_entries.contains(&type_name),
            kind: match field.r#type() {
                Type::Message | Type::Group => Kind::Message(type_name),
                Type::Enum => Kind::Enum(type_name),
                scalar => Kind::Scalar(scalar),
            },
            repeated,
            explicit: field.oneof_index.is_some(),
            oneof: field.oneof_index,
        }
    }
}

impl EnumType {
    fn new(descriptor: EnumDescriptorProto) -> Self {
        let values = descriptor.value.into_iter();
        Self(
            values
                .map(|value| (value.name().to_owned(), value.number()))
                .collect(),
        )
    }

    pub(super) fn number(&self, name: &str) -> Option<i32> {
        self.0.get(name).copied()
    }
}

/// `a_b` as JSON names it: `aB`.
fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |mut out, part| {
        let mut letters = part.chars();
        out.extend(letters.next().map(|letter| letter.to_ascii_uppercase()));
        out.push_str(letters.as_str());
        out
    })
}

/// The parts of an encoded message that are of this field.
fn parts(bytes: &'static [u8], number: u64) -> impl Iterator<Item = &'static [u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let record = next_record(bytes, at)?;
        at = record.whole.end;
        Some((record.number, bytes.get(record.payload)?))
    })
    .filter_map(move |(found, payload)| (found == number).then_some(payload))
}

/// The files whose package a name may be of, with the rest of the name.
fn files_of(name: &str) -> impl Iterator<Item = (&'static [u8], &str)> {
    parts(DESCRIPTORS, FILE).filter_map(move |file| {
        let package = parts(file, PACKAGE).next().unwrap_or_default();
        let rest = name.as_bytes().strip_prefix(package)?;
        let path = name.get(name.len() - rest.len()..)?;
        let path = if package.is_empty() {
            path
        } else {
            path.strip_prefix('.')?
        };
        Some((file, path))
    })
}

fn is_named(descriptor: &'static [u8], name: &str) -> bool {
    parts(descriptor, NAME).next() == Some(name.as_bytes())
}

fn find_message(name: &str) -> Option<DescriptorProto> {
    files_of(name).find_map(|(file, path)| message_in(file, path))
}

fn message_in(file: &'static [u8], path: &str) -> Option<DescriptorProto> {
    let mut names = path.split('.');
    let first = names.next()?;
    let found = parts(file, MESSAGE).find(|message| is_named(message, first))?;
    let mut found = DescriptorProto::decode(found).ok()?;
    for name in names {
        let mut nested = found.nested_type.into_iter();
        found = nested.find(|nested| nested.name() == name)?;
    }
    Some(found)
}

fn find_enum(name: &str) -> Option<EnumDescriptorProto> {
    files_of(name).find_map(|(file, path)| match path.rsplit_once('.') {
        Some((message, name)) => {
            let mut enums = message_in(file, message)?.enum_type.into_iter();
            enums.find(|one| one.name() == name)
        }
        None => {
            let found = parts(file, ENUM).find(|one| is_named(one, path))?;
            EnumDescriptorProto::decode(found).ok()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{Schema, camel};
    use crate::json::pool;

    #[test]
    fn names_of_json() {
        for (name, want) in [("a", "a"), ("port_value", "portValue"), ("a_1_b", "a1B")] {
            assert_eq!(camel(name), want);
        }
    }

    /// The slow way to find types, by decoding everything, finds the same.
    #[test]
    fn every_message_and_enum_is_found() {
        let schema = Schema::default();
        for message in pool().all_messages() {
            let name = message.full_name();
            let found = schema.message(name).unwrap_or_else(|| panic!("{name}"));
            for field in message.fields() {
                for spelling in [field.name(), field.json_name()] {
                    let mine = found.field(spelling).unwrap();
                    assert_eq!(mine.number, field.number(), "{name}.{spelling}");
                    assert_eq!(mine.map, field.is_map(), "{name}.{spelling}");
                    assert_eq!(mine.repeated, field.is_list() || field.is_map());
                    let oneof = field.containing_oneof().is_some();
                    assert_eq!(mine.oneof.is_some(), oneof, "{name}.{spelling}");
                }
            }
        }
        for kind in pool().all_enums() {
            let found = schema.enumeration(kind.full_name()).unwrap();
            for value in kind.values() {
                assert_eq!(found.number(value.name()), Some(value.number()));
            }
        }
        assert!(schema.message("envoy.config.core.v3.Nothing").is_none());
        assert!(schema.enumeration("x").is_none());
    }
}
