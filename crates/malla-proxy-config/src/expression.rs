//! CEL expressions over a request and its answer, as access logs have them in filters and formats, and policies as conditions
//! (<https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/advanced/attributes>).

mod syntax;

use std::sync::Arc;

use malla_apimachinery::condition::Condition;

use crate::pb::expr::Expr;

/// The attributes' roots that this proxy knows.
pub const ROOTS: [&str; 9] = [
    "request",
    "response",
    "connection",
    "source",
    "destination",
    "upstream",
    "xds",
    "metadata",
    "filter_state",
];
/// Those of them that are known while a request is on its way.
const BEFORE_ANSWERS: [&str; 6] = [
    "request",
    "connection",
    "source",
    "destination",
    "metadata",
    "filter_state",
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
        Self::over(text, &ROOTS)
    }

    /// A condition of a policy, as the syntax tree that control planes send.
    ///
    /// # Errors
    /// As for [`Self::parse`]; what only answers have is not known to policies.
    pub(crate) fn condition(tree: &Expr) -> Result<Self, String> {
        Self::over(&syntax::written(tree)?, &BEFORE_ANSWERS)
    }

    fn over(text: &str, known: &[&'static str]) -> Result<Self, String> {
        // As it is written in a file, and as a tree is written.
        let bare = text.replace(['(', ')'], "");
        if let Some(name) = UNKNOWN.iter().find(|name| bare.contains(**name)) {
            return Err(format!("attribute {name} is not supported by this proxy"));
        }
        let condition = Condition::compile_with_raw(text, known, &["filter_state"])?;
        // One too many costs little, one too few is an error of the expression.
        let roots = known.iter().copied();
        let roots = roots.filter(|root| text.contains(root));
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

    /// What it comes to, as text; `None` for an error of any kind, and for collections.
    pub fn text(&self, attributes: &[(&str, &serde_json::Value)]) -> Option<String> {
        self.condition.text(attributes).ok()
    }

    /// What it comes to, as JSON; `None` for an error of any kind.
    pub fn json(&self, attributes: &[(&str, &serde_json::Value)]) -> Option<serde_json::Value> {
        self.condition.json(attributes).ok()
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

    use malla_xds_proto::pb::google::api::expr::v1alpha1 as pb;

    use super::Expression;

    fn tree(kind: pb::expr::ExprKind) -> pb::Expr {
        pb::Expr {
            id: 0,
            expr_kind: Some(kind),
        }
    }

    fn named(name: &str) -> pb::Expr {
        tree(pb::expr::ExprKind::IdentExpr(pb::expr::Ident {
            name: name.into(),
        }))
    }

    fn literal(text: &str) -> pb::Expr {
        let constant_kind = Some(pb::constant::ConstantKind::StringValue(text.into()));
        tree(pb::expr::ExprKind::ConstExpr(pb::Constant {
            constant_kind,
        }))
    }

    fn field(of: pb::Expr, name: &str, test_only: bool) -> pb::Expr {
        tree(pb::expr::ExprKind::SelectExpr(Box::new(pb::expr::Select {
            operand: Some(Box::new(of)),
            field: name.into(),
            test_only,
        })))
    }

    fn call(function: &str, target: Option<pb::Expr>, args: Vec<pb::Expr>) -> pb::Expr {
        tree(pb::expr::ExprKind::CallExpr(Box::new(pb::expr::Call {
            target: target.map(Box::new),
            function: function.into(),
            args,
        })))
    }

    #[test]
    fn trees_mean_what_their_text_means() {
        let request = json!({"path": "/a'\\b", "headers": {"x-user": "ann"}});
        let check = |tree: pb::Expr, want: bool| {
            let condition = Expression::condition(&tree).unwrap();
            assert_eq!(condition.holds(&[("request", &request)]), want, "{tree:?}");
        };
        let headers = || field(named("request"), "headers", false);
        let user = || call("_[_]", None, vec![headers(), literal("x-user")]);
        let is_ann = || call("_==_", None, vec![user(), literal("ann")]);
        check(is_ann(), true);
        check(call("!_", None, vec![is_ann()]), false);
        check(call("@in", None, vec![literal("x-none"), headers()]), false);
        let path = || field(named("request"), "path", false);
        check(
            call("startsWith", Some(path()), vec![literal("/a'\\")]),
            true,
        );
        check(call("_||_", None, vec![is_ann(), literal("no bool")]), true);
        check(field(named("request"), "headers", true), true);
        check(field(named("request"), "none", true), false);
        let either = vec![is_ann(), field(named("request"), "path", true), is_ann()];
        check(call("_?_:_", None, either), true);
    }

    #[test]
    fn trees_that_cannot_be_conditions_are_named() {
        let check = |tree: pb::Expr, part: &str| {
            let error = Expression::condition(&tree).unwrap_err();
            assert!(error.contains(part), "{error}");
        };
        check(field(named("response"), "code", false), "response");
        check(field(named("request"), "time", false), "request.time");
        check(named("a b"), "a b");
        check(call("_&&_", None, vec![named("request")]), "_&&_");
        check(pb::Expr::default(), "says nothing");
        let deep = (0..100).fold(named("request"), |tree, _| call("!_", None, vec![tree]));
        check(deep, "too deeply");
        let folding = pb::expr::ExprKind::ComprehensionExpr(Box::default());
        check(tree(folding), "comprehensions");
    }

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
            ("nobody.x == 1", "nobody"),
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
