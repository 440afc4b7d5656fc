//! Envoy's substitution format: text with `%COMMAND(argument):LENGTH%` in it, and JSON made of such texts.
//!
//! Compiled here once; evaluated by the proxy against the record of a request. A command this proxy does not have is
//! an error that names it, as in Envoy.

mod argument;
mod operator;
mod time;

use http::HeaderValue;

pub use self::operator::{
    Field, HostOrigin, MetadataSource, Milestone, Moment, Operator, PathOrigin, Plain, StateForm,
};
pub use self::time::TimeFormat;
use crate::checked::{Cx, Invalid, type_name};
use crate::metadata::{Object, Value, parse_struct};
use crate::pb::core;

/// A compiled text format.
#[derive(Debug, Clone, PartialEq)]
pub struct Format(pub Vec<Segment>);

/// One piece of a format.
#[derive(Debug, Clone, PartialEq)]
pub enum Segment {
    /// Copied as it is.
    Literal(String),
    /// Filled in for each request.
    Command {
        /// What.
        operator: Operator,
        /// At most so many bytes of it.
        max_length: Option<usize>,
    },
}

/// A JSON value whose strings are formats.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonFormat {
    /// Keys are written in alphabetical order, as Envoy does.
    Object(Vec<(String, JsonFormat)>),
    /// Items in order.
    List(Vec<JsonFormat>),
    /// A text; a single command keeps its type (a number stays a number).
    Text(Format),
    /// Anything else: already JSON.
    Literal(String),
}

impl Format {
    /// Compiles a text.
    pub fn compile(text: &str) -> Result<Self, String> {
        let mut segments = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            literal.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            if let Some(after) = rest.strip_prefix('%') {
                literal.push('%');
                rest = after;
                continue;
            }
            if !literal.is_empty() {
                segments.push(Segment::Literal(std::mem::take(&mut literal)));
            }
            let (segment, after) = command(rest)?;
            segments.push(segment);
            rest = after;
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            segments.push(Segment::Literal(literal));
        }
        Ok(Self(segments))
    }

    /// The text itself if there is no command in it.
    pub fn as_literal(&self) -> Option<&str> {
        match self.0.as_slice() {
            [] => Some(""),
            [Segment::Literal(text)] => Some(text),
            _ => None,
        }
    }
}

/// One command, from after its first `%` to after its last.
fn command(text: &str) -> Result<(Segment, &str), String> {
    let malformed = || {
        format!(
            "`%{}` is not a command (write %% for a percent sign)",
            text.chars().take(20).collect::<String>()
        )
    };
    let name_length = text
        .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
        .filter(|length| *length > 0)
        .ok_or_else(malformed)?;
    let (name, mut rest) = text.split_at(name_length);
    let mut argument = None;
    if let Some(inside) = rest.strip_prefix('(') {
        // The argument may hold `%` and `)`: it ends at the first `)` that a command end follows.
        let end = inside
            .match_indices(')')
            .map(|(at, _)| at)
            .find(|at| tail(&inside[at + 1..]).is_some());
        let end = end.ok_or_else(malformed)?;
        argument = Some(&inside[..end]);
        rest = &inside[end + 1..];
    }
    let (max_length, rest) = tail(rest).ok_or_else(malformed)?;
    let operator = Operator::parse(name, argument, max_length.is_some())?;
    Ok((
        Segment::Command {
            operator,
            max_length,
        },
        rest,
    ))
}

/// `:LENGTH%` or `%`.
fn tail(text: &str) -> Option<(Option<usize>, &str)> {
    if let Some(rest) = text.strip_prefix('%') {
        return Some((None, rest));
    }
    let (digits, rest) = text.strip_prefix(':')?.split_once('%')?;
    digits.parse().ok().map(|length| (Some(length), rest))
}

impl JsonFormat {
    pub(crate) fn parse(wire: crate::pb::google::Struct) -> Result<Self, String> {
        Self::from_object(parse_struct(wire))
    }

    fn from_object(object: Object) -> Result<Self, String> {
        // `Object` is a sorted map already.
        let fields = object
            .into_iter()
            .map(|(key, value)| Ok::<_, String>((key, Self::from_value(value)?)));
        fields.collect::<Result<_, _>>().map(Self::Object)
    }

    fn from_value(value: Value) -> Result<Self, String> {
        match value {
            Value::Object(object) => Self::from_object(object),
            Value::List(items) => items
                .into_iter()
                .map(Self::from_value)
                .collect::<Result<_, _>>()
                .map(Self::List),
            Value::String(text) => Format::compile(&text).map(Self::Text),
            other => Ok(Self::Literal(other.into_json().to_string())),
        }
    }
}

/// A text or JSON format as access logs and local replies have it.
#[derive(Debug, Clone, PartialEq)]
pub struct Layout {
    /// What is written.
    pub body: LayoutBody,
    /// Empty values are left out (JSON) or empty (text) instead of `-`.
    pub omit_empty: bool,
    /// `content-type` of answers in this form, where one is given; logs have none.
    pub content_type: Option<HeaderValue>,
}

/// Text or JSON.
#[derive(Debug, Clone, PartialEq)]
pub enum LayoutBody {
    /// A text, with its line end if it has one.
    Text(Format),
    /// A JSON object and a line end.
    Json(JsonFormat),
}

/// Formatter extensions whose commands are built in here.
const KNOWN_FORMATTERS: [&str; 4] = [
    "envoy.extensions.formatter.file_content.v3.FileContent",
    "envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery",
    "envoy.extensions.formatter.metadata.v3.Metadata",
    "envoy.extensions.formatter.cel.v3.Cel",
];

/// Extensions that bring commands must be known ones.
pub(crate) fn check_formatters(
    wire: Vec<core::TypedExtensionConfig>,
    cx: &Cx,
) -> Result<(), Invalid> {
    for (index, formatter) in wire.into_iter().enumerate() {
        let any = formatter.typed_config.as_ref();
        let name = any.map(type_name).unwrap_or_default();
        if !KNOWN_FORMATTERS.contains(&name.as_str()) {
            return Err(cx.invalid(
                &format!("formatters[{index}]"),
                format!("{name} is not supported by this proxy"),
            ));
        }
    }
    Ok(())
}

impl Layout {
    pub(crate) fn parse(
        wire: core::SubstitutionFormatString,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use core::data_source::Specifier;
        use core::substitution_format_string::Format as Wire;
        let core::SubstitutionFormatString {
            omit_empty_values,
            content_type,
            formatters,
            json_format_options,
            format,
        } = wire;
        // Keys are sorted in any case.
        cx.ignorable("json_format_options", &json_format_options);
        check_formatters(formatters, cx)?;
        let content_type = match content_type.is_empty() {
            true => None,
            false => Some(HeaderValue::from_str(&content_type).map_err(|_| {
                cx.invalid("content_type", "has characters that no header may have")
            })?),
        };
        let text = |field: &str, text: &str| {
            Format::compile(text).map_err(|reason| cx.invalid(field, reason))
        };
        let body = match cx.required("format", format)? {
            Wire::TextFormat(format) => LayoutBody::Text(text("text_format", &format)?),
            Wire::JsonFormat(tree) => LayoutBody::Json(
                JsonFormat::parse(tree).map_err(|reason| cx.invalid("json_format", reason))?,
            ),
            Wire::TextFormatSource(source) => match source.specifier {
                Some(Specifier::InlineString(format)) => {
                    LayoutBody::Text(text("text_format_source.inline_string", &format)?)
                }
                _ => {
                    return Err(cx.invalid(
                        "text_format_source",
                        "only inline_string is supported by this proxy",
                    ));
                }
            },
        };
        Ok(Self {
            body,
            omit_empty: omit_empty_values,
            content_type,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Field, Format, Moment, Operator, Plain, Segment, TimeFormat};

    fn one(text: &str) -> Segment {
        let Format(mut segments) = Format::compile(text).unwrap();
        assert_eq!(segments.len(), 1, "{text}");
        segments.remove(0)
    }

    #[test]
    fn commands_arguments_and_lengths() {
        let command = |operator, max_length| Segment::Command {
            operator,
            max_length,
        };
        assert_eq!(
            one("%DURATION%"),
            command(Operator::Plain(Plain::Duration), None)
        );
        assert_eq!(
            one("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH):12%"),
            command(
                Operator::Request(
                    Field::Header("x-envoy-original-path".parse().unwrap()),
                    Some(Field::Path)
                ),
                Some(12)
            )
        );
        let format = TimeFormat {
            text: Some("%Y/%m/%d %H:%M:%S.%3f".into()),
            local: false,
        };
        assert_eq!(
            one("%START_TIME(%Y/%m/%d %H:%M:%S.%3f)%"),
            command(
                Operator::Time {
                    of: Moment::Start,
                    format
                },
                None
            )
        );
        assert_eq!(one("100%% sure"), Segment::Literal("100% sure".into()));
    }

    #[test]
    fn mistakes_are_named() {
        let check =
            |text: &str, want: &str| assert_eq!(Format::compile(text).unwrap_err(), want, "{text}");
        check("%NOPE%", "%NOPE% is not supported by this proxy");
        check(
            "50% off",
            "`% off` is not a command (write %% for a percent sign)",
        );
        check("%REQ%", "%REQ% needs a header name in parentheses");
        check("%REQ()%", "%REQ% needs a header name in parentheses");
        check("%DURATION:3%", "%DURATION% takes no length");
        check("%DURATION(x)%", "%DURATION% takes no argument");
        check(
            "%UPSTREAM_METADATA(a):3%",
            "%UPSTREAM_METADATA% takes no length",
        );
        check(
            "%METADATA(X:a)%",
            "%METADATA(X:…)%: there is no such metadata",
        );
        check(
            "%START_TIME(%n)%",
            "%START_TIME%: the time format has a line end",
        );
        check(
            r#"%COALESCE({"operators": []})%"#,
            "%COALESCE% takes one to 32 operators",
        );
        check(
            r#"%COALESCE({"operators": ["REQ"]})%"#,
            "%REQ% needs a header name in parentheses",
        );
        check(
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(x)%",
            "`x` is not the length of an address' prefix",
        );
        check(
            "%UPSTREAM_TLS_SESSION_ID%",
            "%UPSTREAM_TLS_SESSION_ID% is not supported by this proxy",
        );
        check(
            "%REQ(:A",
            "`%REQ(:A` is not a command (write %% for a percent sign)",
        );
    }
}
