//! What is understood, how it binds, and what errors say.

use super::*;

/// The expression with every binding made visible.
fn shown(expr: &Expr) -> String {
    match expr {
        Expr::Number(number) => number.to_string(),
        Expr::Text(text) => format!("{text:?}"),
        Expr::Selector(selector) => selector_shown(selector),
        Expr::Range(selector, range) => format!("{}[{range}]", selector_shown(selector)),
        Expr::Subquery(sub) => {
            let step = sub.step.map(|s| s.to_string()).unwrap_or_default();
            format!(
                "{}[{}:{step}]{}",
                shown(&sub.expr),
                sub.range,
                modifiers(&sub.modifiers)
            )
        }
        Expr::Call(call) => {
            let args: Vec<String> = call.args.iter().map(shown).collect();
            format!("{}({})", call.function.name, args.join(", "))
        }
        Expr::Aggregate(aggregate) => {
            let parameter = aggregate.parameter.as_ref().map(|p| shown(p) + ", ");
            let word = if aggregate.without { "without" } else { "by" };
            format!(
                "{:?} {word}{:?}({}{})",
                aggregate.op,
                aggregate.labels,
                parameter.unwrap_or_default(),
                shown(&aggregate.expr)
            )
        }
        Expr::Binary(b) => {
            let m = &b.matching;
            let matching = match m.explicit {
                true => format!(" {}{:?}{:?}{:?}", m.on, m.labels, m.cardinality, m.include),
                false => String::new(),
            };
            let as_bool = if b.as_bool { " bool" } else { "" };
            format!(
                "({} {}{as_bool}{matching} {})",
                shown(&b.left),
                b.op.symbol(),
                shown(&b.right)
            )
        }
        Expr::Negate(expr) => format!("-({})", shown(expr)),
    }
}

fn selector_shown(selector: &Selector) -> String {
    let matchers: Vec<String> = selector.matchers.iter().map(|m| m.to_string()).collect();
    format!(
        "{{{}}}{}",
        matchers.join(","),
        modifiers(&selector.modifiers)
    )
    .replace("__name__=\"", "\"")
}

fn modifiers(modifiers: &Modifiers) -> String {
    let at = modifiers
        .at
        .map(|at| format!(" @{at:?}"))
        .unwrap_or_default();
    let offset = modifiers.offset.map(|o| format!(" offset {o}"));
    at + &offset.unwrap_or_default()
}

#[track_caller]
fn check(text: &str, want: &str) {
    let got = match parse(text) {
        Ok(expr) => shown(&expr),
        Err(error) => error.to_string(),
    };
    assert_eq!(got, want, "{text}");
}

#[test]
fn operators_bind_as_in_prometheus() {
    check("1 + 2 * 3 ^ 2 ^ 2", "(1 + (2 * (3 ^ (2 ^ 2))))");
    check("-1 ^ 2", "-((1 ^ 2))");
    check("-a * b", "(-({\"a\"}) * {\"b\"})");
    check(
        "a or b and c unless d",
        "({\"a\"} or (({\"b\"} and {\"c\"}) unless {\"d\"}))",
    );
    check("a - b - 1", "(({\"a\"} - {\"b\"}) - 1)");
    check("1 < bool 2 == bool 3", "((1 < bool 2) == bool 3)");
    check("a % b atan2 c", "(({\"a\"} % {\"b\"}) atan2 {\"c\"})");
}

#[test]
fn selectors_ranges_and_modifiers() {
    check("up", "{\"up\"}");
    check(
        "a:b{c='d', e!~\"f|g\",}[5m] offset -1h",
        "{\"a:b\",c=\"d\",e!~\"f|g\"} offset -3600000[300000]",
    );
    check(
        "{__name__=~\"a.+\"} @ 10.5 offset 1d",
        "{__name__=~\"a.+\"} @Time(10500) offset 86400000",
    );
    check(
        "rate(x[1m])[10m:30s] @ end()",
        "rate({\"x\"}[60000])[600000:30000] @End",
    );
    check("x[10m:]", "{\"x\"}[600000:]");
    check(
        "max_over_time((a+b)[1h:1m] offset 1m)",
        "max_over_time(({\"a\"} + {\"b\"})[3600000:60000] offset 60000)",
    );
    check("sum", "{\"sum\"}");
    check("{\"a.b\", c=\"d\"}", "{\"a.b\",c=\"d\"}");
    check("inf + NaN", "(inf + NaN)");
    check("0x1F + 1.5e3 + .5", "((31 + 1500) + 0.5)");
    check(
        "label_join(a, \"b\\n\", '\\x41', `\\n`)",
        "label_join({\"a\"}, \"b\\n\", \"A\", \"\\\\n\")",
    );
}

#[test]
fn aggregations_and_matching() {
    check("sum by (a, by) (x)", "Sum by[\"a\", \"by\"]({\"x\"})");
    check("SUM(x) WITHOUT (a)", "Sum without[\"a\"]({\"x\"})");
    check("topk(2, x)", "Topk by[](2, {\"x\"})");
    check("count_values('v', x)", "CountValues by[](\"v\", {\"x\"})");
    check(
        "a / on(b) group_left(c, d) e",
        "({\"a\"} / true[\"b\"]ManyToOne[\"c\", \"d\"] {\"e\"})",
    );
    check(
        "a > bool ignoring(b) c",
        "({\"a\"} > bool false[\"b\"]OneToOne[] {\"c\"})",
    );
}

#[test]
fn errors_say_where_and_why() {
    check("", "1:1: parse error: no expression found in input");
    check(
        "foo(x)",
        "1:1: parse error: unknown function with name \"foo\"",
    );
    check(
        "holt_winters(x[1m], 1, 1)",
        "1:1: parse error: function \"holt_winters\" is not supported by this store",
    );
    check(
        "rate(x)",
        "1:1: parse error: expected type range vector in call to function \"rate\", got instant vector",
    );
    check(
        "rate(x[1m]",
        "1:11: parse error: unexpected end of input in arguments, expected \")\"",
    );
    check(
        "1 == 2",
        "1:6: parse error: comparisons between scalars must use BOOL modifier",
    );
    check(
        "a and 1",
        "1:7: parse error: set operator \"and\" not allowed in binary scalar expression",
    );
    check(
        "{a=~\".*\"}",
        "1:1: parse error: vector selector must contain at least one non-empty matcher",
    );
    check(
        "a{b=~\"(\"}",
        "1:6: parse error: label b: regex parse error:\n    ^(?s:()$\n     ^\nerror: unclosed group",
    );
    check("x\n  + + $", "2:7: parse error: unexpected character: '$'");
    check(
        "x offset 5m [5m]",
        "1:13: parse error: no offset or @ modifiers allowed before range",
    );
    check(
        "(a+b)[5m]",
        "1:6: parse error: ranges only allowed for vector selectors",
    );
    check("x[0s]", "1:3: parse error: duration must be greater than 0");
    check(
        "topk(x)",
        "1:5: parse error: wrong number of arguments for aggregate expression \"topk\", expected 2, got 1",
    );
    check(
        "a b",
        "1:3: parse error: unexpected identifier \"b\" after the expression",
    );
    check("'a", "1:1: parse error: unterminated quoted string");
    check(
        "3m",
        "1:1: parse error: unexpected duration where an expression is expected",
    );
    check(
        &"(".repeat(200),
        "1:101: parse error: more than 100 levels deep",
    );
    check(
        "a * on(b) 1",
        "1:5: parse error: vector matching only allowed between instant vectors",
    );
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in "[a-c(){}\\[\\]:@0-9msh+*/^=~!,\"' .-]{0,40}|\\PC{0,20}") {
        parse(&text).ok();
    }
}
