//! Tokens to a checked expression: a Pratt parser, then types.
//!
//! Invariants: the depth is bounded, and an expression that is returned can be evaluated as far as
//! types go.

mod check;

use crate::metrics::{MatchOp, Matcher, NAME};
use crate::promql::ParseError;
use crate::promql::ast::{
    Aggregate, AggregateOp, At, Binary, BinaryOp, Call, Cardinality, Expr, Kind, Matching,
    Modifiers, Selector, Subquery,
};
use crate::promql::functions::Function;
use crate::promql::lexer::{Spot, Token, tokens};

/// Bytes of a query.
const LONGEST: usize = 64 << 10;
/// Brackets, operators and calls within each other.
const DEEPEST: usize = 100;
/// Binary operators in one query: a long chain makes a deep tree.
const MOST_OPERATORS: usize = 250;

/// # Errors
/// Says where and why a text isn't a query.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    if text.len() > LONGEST {
        let reason = format!("the query is longer than {LONGEST} bytes");
        return Err(ParseError::new(text, 0, reason));
    }
    let mut parser = Parser {
        text,
        tokens: tokens(text)?,
        next: 0,
        depth: 0,
        operators: 0,
    };
    if parser.peek() == &Token::End {
        return Err(parser.wrong("no expression found in input"));
    }
    let expr = parser.expr(0)?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("after the expression")),
    }
}

/// Parses what `match[]` takes: one selector.
///
/// # Errors
/// When it is anything else.
pub fn parse_selector(text: &str) -> Result<Vec<Matcher>, ParseError> {
    match parse(text)? {
        Expr::Selector(selector) if selector.modifiers == Modifiers::default() => {
            Ok(selector.matchers)
        }
        _ => Err(ParseError::new(text, 0, "a series selector is expected")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Vec<Spot>,
    next: usize,
    depth: usize,
    operators: usize,
}

type Parsed<T = Expr> = Result<T, ParseError>;

impl Parser<'_> {
    fn peek(&self) -> &Token {
        self.tokens.get(self.next).map_or(&Token::End, |s| &s.token)
    }

    fn after(&self) -> &Token {
        self.tokens
            .get(self.next + 1)
            .map_or(&Token::End, |s| &s.token)
    }

    fn take(&mut self) -> Token {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.text.len(), |s| s.at)
    }

    fn wrong(&self, reason: impl Into<String>) -> ParseError {
        ParseError::new(self.text, self.at(), reason)
    }

    fn unexpected(&self, place: &str) -> ParseError {
        let what = match self.peek() {
            Token::Word(word) => format!("identifier {word:?}"),
            Token::Number(number) => format!("number {number}"),
            Token::Duration(_) => "duration".to_owned(),
            Token::Text(text) => format!("string {text:?}"),
            Token::Symbol(symbol) => format!("{symbol:?}"),
            Token::End => "end of input".to_owned(),
        };
        self.wrong(format!("unexpected {what} {place}"))
    }

    fn symbol(&mut self, symbol: &str) -> bool {
        let found = matches!(self.peek(), Token::Symbol(s) if *s == symbol);
        self.next += usize::from(found);
        found
    }

    fn expect(&mut self, symbol: &str, place: &str) -> Parsed<()> {
        match self.symbol(symbol) {
            true => Ok(()),
            false => Err(self.unexpected(&format!("{place}, expected {symbol:?}"))),
        }
    }

    fn keyword(&mut self, keyword: &str) -> bool {
        let found = matches!(self.peek(), Token::Word(w) if w.eq_ignore_ascii_case(keyword));
        self.next += usize::from(found);
        found
    }

    /// An expression whose operators bind at least as tightly as `least`.
    fn expr(&mut self, least: u8) -> Parsed {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(self.wrong(format!("more than {DEEPEST} levels deep")));
        }
        let mut left = self.unary()?;
        while let Some(op) = self.operator() {
            let precedence = op.precedence();
            if precedence < least {
                break;
            }
            self.next += 1;
            left = self.binary(left, op)?;
        }
        self.depth -= 1;
        Ok(left)
    }

    fn operator(&self) -> Option<BinaryOp> {
        let find = |text: &str| {
            let found = BinaryOp::ALL
                .iter()
                .find(|(s, _)| s.eq_ignore_ascii_case(text));
            found.map(|(_, op)| *op)
        };
        match self.peek() {
            Token::Symbol(symbol) => find(symbol),
            Token::Word(word) => find(word),
            _ => None,
        }
    }

    fn binary(&mut self, left: Expr, op: BinaryOp) -> Parsed {
        let at = self.at();
        self.operators += 1;
        if self.operators > MOST_OPERATORS {
            return Err(self.wrong(format!("more than {MOST_OPERATORS} operators")));
        }
        let as_bool = self.keyword("bool");
        let matching = self.matching()?;
        // Only `^` binds to the right.
        let least = op.precedence() + u8::from(op != BinaryOp::Pow);
        let right = self.expr(least)?;
        let binary = Binary {
            op,
            left,
            right,
            as_bool,
            matching,
        };
        check::binary(&binary).map_err(|reason| ParseError::new(self.text, at, reason))?;
        Ok(Expr::Binary(Box::new(binary)))
    }

    fn matching(&mut self) -> Parsed<Matching> {
        let mut matching = Matching {
            on: self.keyword("on"),
            ..Matching::default()
        };
        if !matching.on && !self.keyword("ignoring") {
            return Ok(matching);
        }
        matching.explicit = true;
        matching.labels = self.label_names()?;
        matching.cardinality = if self.keyword("group_left") {
            Cardinality::ManyToOne
        } else if self.keyword("group_right") {
            Cardinality::OneToMany
        } else {
            return Ok(matching);
        };
        if matches!(self.peek(), Token::Symbol("(")) {
            matching.include = self.label_names()?;
        }
        Ok(matching)
    }

    fn label_names(&mut self) -> Parsed<Vec<String>> {
        self.expect("(", "in grouping")?;
        let mut names = Vec::new();
        while !self.symbol(")") {
            match self.take() {
                Token::Word(word) if !word.contains(':') => names.push(word),
                Token::Text(text) if !text.is_empty() => names.push(text),
                _ => {
                    self.next -= 1;
                    return Err(self.unexpected("in grouping, expected a label"));
                }
            }
            if !self.symbol(",") {
                self.expect(")", "in grouping")?;
                break;
            }
        }
        Ok(names)
    }

    fn unary(&mut self) -> Parsed {
        let at = self.at();
        let negative = self.symbol("-");
        if !negative && !self.symbol("+") {
            let primary = self.primary()?;
            return self.postfix(primary);
        }
        let expr = self.expr(BinaryOp::Pow.precedence())?;
        match (expr.kind(), expr) {
            (Kind::Scalar, Expr::Number(number)) if negative => Ok(Expr::Number(-number)),
            (Kind::Scalar | Kind::Vector, expr) if negative => Ok(Expr::Negate(Box::new(expr))),
            (Kind::Scalar | Kind::Vector, expr) => Ok(expr),
            (kind, _) => {
                let reason = format!(
                    "unary expression only allowed on expressions of type scalar or instant vector, got {kind}"
                );
                Err(ParseError::new(self.text, at, reason))
            }
        }
    }

    fn primary(&mut self) -> Parsed {
        match self.peek().clone() {
            Token::Number(number) => {
                self.next += 1;
                Ok(Expr::Number(number))
            }
            Token::Text(text) => {
                self.next += 1;
                Ok(Expr::Text(text))
            }
            Token::Symbol("(") => {
                self.next += 1;
                let expr = self.expr(0)?;
                self.expect(")", "after the expression")?;
                Ok(expr)
            }
            Token::Symbol("{") => self.selector(None),
            Token::Word(word) => self.word(word),
            _ => Err(self.unexpected("where an expression is expected")),
        }
    }

    fn word(&mut self, word: String) -> Parsed {
        let called = matches!(self.after(), Token::Symbol("("));
        let grouped = matches!(self.after(), Token::Word(w)
            if w.eq_ignore_ascii_case("by") || w.eq_ignore_ascii_case("without"));
        if let Some(op) = AggregateOp::find(&word)
            && (called || grouped)
        {
            self.next += 1;
            return self.aggregate(op, &word);
        }
        if called {
            return self.call(&word);
        }
        match word.to_ascii_lowercase().as_str() {
            "inf" => {
                self.next += 1;
                Ok(Expr::Number(f64::INFINITY))
            }
            "nan" => {
                self.next += 1;
                Ok(Expr::Number(f64::NAN))
            }
            _ => {
                self.next += 1;
                self.selector(Some(word))
            }
        }
    }

    fn call(&mut self, name: &str) -> Parsed {
        let at = self.at();
        let wrong = |reason: String| ParseError::new(self.text, at, reason);
        let function = Function::find(name).map_err(wrong)?;
        self.next += 1;
        let args = self.arguments()?;
        let call = Call { function, args };
        check::call(&call).map_err(|reason| ParseError::new(self.text, at, reason))?;
        Ok(Expr::Call(call))
    }

    fn arguments(&mut self) -> Parsed<Vec<Expr>> {
        self.expect("(", "in arguments")?;
        let mut args = Vec::new();
        while !self.symbol(")") {
            args.push(self.expr(0)?);
            if !self.symbol(",") {
                self.expect(")", "in arguments")?;
                break;
            }
        }
        Ok(args)
    }

    fn aggregate(&mut self, op: AggregateOp, name: &str) -> Parsed {
        let at = self.at();
        let mut grouping = self.grouping()?;
        let mut args = self.arguments()?;
        if grouping.is_none() {
            grouping = self.grouping()?;
        }
        let (without, labels) = grouping.unwrap_or_default();
        let wrong = |reason: String| ParseError::new(self.text, at, reason);
        let expr = args
            .pop()
            .ok_or_else(|| wrong(format!("no arguments for aggregate {name:?}")))?;
        let parameter = args.pop();
        let expected = 1 + usize::from(op.parameter().is_some());
        let given = args.len() + 1 + usize::from(parameter.is_some());
        if given != expected {
            return Err(wrong(format!(
                "wrong number of arguments for aggregate expression {name:?}, expected {expected}, got {given}"
            )));
        }
        let aggregate = Aggregate {
            op,
            parameter,
            expr,
            without,
            labels,
        };
        check::aggregate(&aggregate).map_err(wrong)?;
        Ok(Expr::Aggregate(Box::new(aggregate)))
    }

    fn grouping(&mut self) -> Parsed<Option<(bool, Vec<String>)>> {
        let without = self.keyword("without");
        if without || self.keyword("by") {
            return Ok(Some((without, self.label_names()?)));
        }
        Ok(None)
    }

    fn selector(&mut self, name: Option<String>) -> Parsed {
        let at = self.at();
        let mut matchers = Vec::new();
        let named = name.is_some();
        matchers.extend(name.map(|name| Matcher::equal(NAME, name)));
        if self.symbol("{") {
            while !self.symbol("}") {
                let matcher = self.matcher()?;
                if named && matcher.name() == NAME && matcher.op() == MatchOp::Equal {
                    return Err(self.wrong("metric name must not be set twice"));
                }
                matchers.push(matcher);
                if !self.symbol(",") {
                    self.expect("}", "in label matching")?;
                    break;
                }
            }
        }
        if matchers.iter().all(Matcher::matches_empty) {
            let reason = "vector selector must contain at least one non-empty matcher";
            return Err(ParseError::new(self.text, at, reason));
        }
        Ok(Expr::Selector(Selector {
            matchers,
            modifiers: Modifiers::default(),
        }))
    }

    fn matcher(&mut self) -> Parsed<Matcher> {
        let (name, quoted) = match self.take() {
            Token::Word(word) if !word.contains(':') => (word, false),
            Token::Text(text) => (text, true),
            _ => {
                self.next -= 1;
                return Err(self.unexpected("in label matching, expected a label"));
            }
        };
        let op = match self.peek() {
            Token::Symbol("=") => MatchOp::Equal,
            Token::Symbol("!=") => MatchOp::NotEqual,
            Token::Symbol("=~") => MatchOp::Regex,
            Token::Symbol("!~") => MatchOp::NotRegex,
            // Prometheus 3: a quoted metric name within the braces.
            _ if quoted => return Ok(Matcher::equal(NAME, name)),
            _ => {
                return Err(
                    self.unexpected("in label matching, expected \"=\", \"!=\", \"=~\" or \"!~\"")
                );
            }
        };
        self.next += 1;
        let at = self.at();
        let Token::Text(value) = self.take() else {
            self.next -= 1;
            return Err(self.unexpected("in label matching, expected a string"));
        };
        Matcher::new(name, op, value)
            .map_err(|error| ParseError::new(self.text, at, error.to_string()))
    }

    /// Ranges, subqueries, `offset` and `@`.
    fn postfix(&mut self, mut expr: Expr) -> Parsed {
        loop {
            if matches!(self.peek(), Token::Symbol("[")) {
                expr = self.range(expr)?;
            } else if self.keyword("offset") {
                let offset = self.signed_duration()?;
                let modifiers = self.modifiers(&mut expr, "offset")?;
                if modifiers.offset.replace(offset).is_some() {
                    return Err(self.wrong("offset may not be set multiple times"));
                }
            } else if self.symbol("@") {
                let at = self.instant()?;
                let modifiers = self.modifiers(&mut expr, "@")?;
                if modifiers.at.replace(at).is_some() {
                    return Err(self.wrong("@ <timestamp> may not be set multiple times"));
                }
            } else {
                return Ok(expr);
            }
        }
    }

    fn modifiers<'e>(&self, expr: &'e mut Expr, what: &str) -> Parsed<&'e mut Modifiers> {
        match expr {
            Expr::Selector(selector) | Expr::Range(selector, _) => Ok(&mut selector.modifiers),
            Expr::Subquery(subquery) => Ok(&mut subquery.modifiers),
            _ => Err(self.wrong(format!(
                "{what} modifier must be preceded by an instant vector selector or range vector selector or a subquery"
            ))),
        }
    }

    fn range(&mut self, expr: Expr) -> Parsed {
        let at = self.at();
        self.expect("[", "in range")?;
        let range = self.duration()?;
        if self.symbol(":") {
            let step = match self.peek() {
                Token::Symbol("]") => None,
                _ => Some(self.duration()?),
            };
            self.expect("]", "in subquery")?;
            if expr.kind() != Kind::Vector {
                let kind = expr.kind();
                let reason = format!("subquery is only allowed on instant vector, got {kind}");
                return Err(ParseError::new(self.text, at, reason));
            }
            return Ok(Expr::Subquery(Box::new(Subquery {
                expr,
                range,
                step,
                modifiers: Modifiers::default(),
            })));
        }
        self.expect("]", "in range")?;
        match expr {
            Expr::Selector(selector) if selector.modifiers == Modifiers::default() => {
                Ok(Expr::Range(selector, range))
            }
            Expr::Selector(_) => Err(ParseError::new(
                self.text,
                at,
                "no offset or @ modifiers allowed before range",
            )),
            _ => Err(ParseError::new(
                self.text,
                at,
                "ranges only allowed for vector selectors",
            )),
        }
    }

    /// A duration above zero; a plain number counts seconds, as in Prometheus 3.
    fn duration(&mut self) -> Parsed<i64> {
        let duration = match self.peek() {
            Token::Duration(duration) => *duration,
            Token::Number(seconds) => (seconds * 1000.0) as i64,
            _ => return Err(self.unexpected("where a duration is expected")),
        };
        if duration <= 0 {
            return Err(self.wrong("duration must be greater than 0"));
        }
        self.next += 1;
        Ok(duration)
    }

    fn signed_duration(&mut self) -> Parsed<i64> {
        let negative = self.symbol("-");
        let duration = match self.peek() {
            Token::Duration(duration) => *duration,
            Token::Number(seconds) => (seconds * 1000.0) as i64,
            _ => return Err(self.unexpected("in offset, expected a duration")),
        };
        self.next += 1;
        Ok(if negative { -duration } else { duration })
    }

    fn instant(&mut self) -> Parsed<At> {
        for (word, at) in [("start", At::Start), ("end", At::End)] {
            if self.keyword(word) {
                self.expect("(", "after @")?;
                self.expect(")", "after @")?;
                return Ok(at);
            }
        }
        let negative = self.symbol("-");
        if !negative {
            self.symbol("+");
        }
        let Token::Number(seconds) = *self.peek() else {
            return Err(self.unexpected("in @, expected a timestamp, start() or end()"));
        };
        let milliseconds = (seconds * 1000.0).round();
        if !milliseconds.is_finite() || milliseconds.abs() > 9e15 {
            return Err(self.wrong("timestamp out of bounds for @ modifier"));
        }
        self.next += 1;
        let milliseconds = milliseconds as i64;
        Ok(At::Time(if negative {
            -milliseconds
        } else {
            milliseconds
        }))
    }
}

#[cfg(test)]
mod tests;
