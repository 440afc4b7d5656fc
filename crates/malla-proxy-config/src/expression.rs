//! CEL expressions over a request and its answer, as access log filters have them
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>).

use std::sync::Arc;

use malla_apimachinery::condition::Condition;

/// The attributes' roots that this proxy knows.
pub const ROOTS: [&str; 7] = [
    "request",
    "response",
    "connection",
    "source",
    "destination",
    "upstream",
    "xds",
];
/// Attributes below those roots that it does not know: moments and spans of time.
const UNKNOWN: [&str; 4] = [
    "request.time",
    "request.duration",
    "response.backend_latency",
    "connection.start_time",
];

/// A compiled expression that is to hold.
#[derive(Debug, Clone)]
pub struct Expression {
    text: Arc<str>,
    condition: Arc<Condition>,
    roots: Vec<&'static str>,
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Expression {
    /// Compiles a text; the error says what is wrong with it.
    ///
    /// # Errors
    /// When it does not parse, would cost too much, or names attributes this proxy does not have.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(name) = UNKNOWN.iter().find(|name| text.contains(**name)) {
            return Err(format!("attribute {name} is not supported by this proxy"));
        }
        let condition = Condition::compile(text, &ROOTS)?;
        // One too many costs little, one too few is an error of the expression.
        let roots = ROOTS.into_iter().filter(|root| text.contains(root));
        Ok(Self {
            text: text.into(),
            condition: Arc::new(condition),
            roots: roots.collect(),
        })
    }

    /// The roots it may read.
    pub fn roots(&self) -> &[&'static str] {
        &self.roots
    }

    /// It may read header fields that only the message itself names.
    pub fn reads_headers(&self) -> bool {
        self.text.contains("headers") || self.text.contains("trailers")
    }

    /// True if it holds; an error of any kind is a no, as in Envoy.
    pub fn holds(&self, attributes: &[(&str, &serde_json::Value)]) -> bool {
        self.condition.evaluate(attributes).unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::proptest;
    use serde_json::json;

    use super::Expression;

    #[test]
    fn expressions_hold_or_do_not() {
        let request = json!({"path": "/a", "headers": {"x-user": "ann"}});
        let response = json!({"code": 503});
        let check = |text: &str, want: bool| {
            let expression = Expression::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            let attributes = [("request", &request), ("response", &response)];
            assert_eq!(expression.holds(&attributes), want, "{text}");
        };
        check("response.code >= 500", true);
        check(
            "response.code == 200 || request.path.startsWith('/b')",
            false,
        );
        check("request.headers['x-user'] == 'ann'", true);
        check("'x-none' in request.headers", false);
        check("has(request.nothing)", false);
        // Errors are a no.
        check("request.nothing == 1", false);
        check("response.code", false);
    }

    #[test]
    fn what_cannot_be_evaluated_is_named() {
        for (text, part) in [
            ("request.time < 1", "request.time"),
            ("metadata.x == 1", "metadata"),
            ("response.code >=", ""),
        ] {
            let error = Expression::parse(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = Expression::parse(&text);
        }
    }
}
