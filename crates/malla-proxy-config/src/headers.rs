//! Changes to headers: added with formats, removed by name.

use http::{HeaderName, HeaderValue};

use crate::checked::{Cx, Invalid, refuse};
use crate::format::{Field, Format};
use crate::pb::core;

/// Headers to add and to remove at one level (route, virtual host, …).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderEdits {
    /// Added after removing.
    pub add: Vec<HeaderAdd>,
    /// Removed.
    pub remove: Vec<HeaderName>,
}

/// One header to add.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderAdd {
    /// Its name.
    pub name: HeaderName,
    /// Its value.
    pub value: HeaderText,
    /// What happens if it is there.
    pub action: AppendAction,
    /// Add it even if the value is empty.
    pub keep_empty: bool,
}

/// A value that is always the same, or filled in for each request.
#[derive(Debug, Clone, PartialEq)]
pub enum HeaderText {
    /// Always the same.
    Fixed(HeaderValue),
    /// Filled in.
    Format(Format),
}

/// `HeaderAppendAction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    /// Add one more.
    Append,
    /// Only if there is none.
    AddIfAbsent,
    /// Replace all.
    Overwrite,
    /// Replace all, only if there is one.
    OverwriteIfExists,
}

impl HeaderEdits {
    /// True if there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }

    /// Parses the two lists that sit at `<side>_headers_to_add` and `<side>_headers_to_remove`.
    pub(crate) fn parse(
        side: &str,
        add: Vec<core::HeaderValueOption>,
        remove: Vec<String>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        let remove = cx.each(&format!("{side}_headers_to_remove"), remove, |name, cx| {
            let name: HeaderName = name
                .parse()
                .map_err(|_| cx.invalid("", format!("`{name}` is not a header name")))?;
            if name == http::header::HOST {
                return Err(cx.invalid("", "the host cannot be removed"));
            }
            Ok(name)
        })?;
        Ok(Self {
            add: cx.each(&format!("{side}_headers_to_add"), add, HeaderAdd::parse)?,
            remove,
        })
    }
}

impl HeaderAdd {
    pub(crate) fn parse(wire: core::HeaderValueOption, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::header_value_option::HeaderAppendAction;
        let core::HeaderValueOption {
            header,
            append,
            append_action,
            keep_empty_value,
        } = wire;
        let core::HeaderValue {
            key,
            value,
            raw_value,
        } = cx.required("header", header)?;
        refuse!(cx; raw_value);
        let name = match Field::parse(&key).map_err(|reason| cx.invalid("header.key", reason))? {
            Field::Header(name) => name,
            Field::Authority => http::header::HOST,
            Field::Method | Field::Path | Field::Scheme | Field::Status => {
                return Err(cx.invalid("header.key", format!("`{key}` cannot be set this way")));
            }
        };
        let format =
            Format::compile(&value).map_err(|reason| cx.invalid("header.value", reason))?;
        let value = match format.as_literal() {
            Some(text) => HeaderText::Fixed(HeaderValue::from_str(text).map_err(|_| {
                cx.invalid("header.value", "has characters that no header may have")
            })?),
            None => HeaderText::Format(format),
        };
        let action = match (
            append.map(|append| append.value),
            cx.enumeration("append_action", append_action)?,
        ) {
            (Some(true), _) | (None, HeaderAppendAction::AppendIfExistsOrAdd) => {
                AppendAction::Append
            }
            (Some(false), _) | (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => {
                AppendAction::Overwrite
            }
            (None, HeaderAppendAction::AddIfAbsent) => AppendAction::AddIfAbsent,
            (None, HeaderAppendAction::OverwriteIfExists) => AppendAction::OverwriteIfExists,
        };
        Ok(Self {
            name,
            value,
            action,
            keep_empty: keep_empty_value,
        })
    }
}
