//! Text to tokens. What a word means (a keyword, a metric, a label) is the parser's to decide.

use crate::promql::{ParseError, duration};

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Word(String),
    Number(f64),
    /// Milliseconds.
    Duration(i64),
    Text(String),
    /// Brackets, operators, comma, colon, at sign.
    Symbol(&'static str),
    End,
}

/// A token and where it begins, in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spot {
    pub(crate) token: Token,
    pub(crate) at: usize,
}

/// Longest first.
const SYMBOLS: [&str; 27] = [
    "==", "!=", ">=", "<=", "=~", "!~", "(", ")", "{", "}", "[", "]", ",", "=", ">", "<", "+", "-",
    "*", "/", "%", "^", "@", ":", "!", "~", ";",
];

pub(crate) fn tokens(text: &str) -> Result<Vec<Spot>, ParseError> {
    let mut found = Vec::new();
    let mut at = 0;
    let mut bracket = false;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().unwrap_or(' ');
        let length = match first {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '#' => {
                at += rest.find('\n').unwrap_or(rest.len());
                continue;
            }
            '"' | '\'' | '`' => {
                let (value, length) =
                    quoted(rest, first).map_err(|r| ParseError::new(text, at, r))?;
                found.push(Spot {
                    token: Token::Text(value),
                    at,
                });
                length
            }
            c if c.is_ascii_digit() || (c == '.' && followed_by_digit(rest)) => {
                let (token, length) = number(rest).map_err(|r| ParseError::new(text, at, r))?;
                found.push(Spot { token, at });
                length
            }
            c if c.is_alphabetic() || c == '_' || (c == ':' && !bracket) => {
                let word = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
                let length = rest.find(|c| !word(c)).unwrap_or(rest.len());
                let word = rest.get(..length).unwrap_or_default().to_owned();
                found.push(Spot {
                    token: Token::Word(word),
                    at,
                });
                length
            }
            c => {
                let symbol = SYMBOLS.into_iter().find(|s| rest.starts_with(s));
                let symbol = symbol.ok_or_else(|| {
                    ParseError::new(text, at, format!("unexpected character: {c:?}"))
                })?;
                bracket = (bracket || symbol == "[") && symbol != "]";
                found.push(Spot {
                    token: Token::Symbol(symbol),
                    at,
                });
                symbol.len()
            }
        };
        at += length;
    }
    found.push(Spot {
        token: Token::End,
        at: text.len(),
    });
    Ok(found)
}

fn followed_by_digit(rest: &str) -> bool {
    rest.chars().nth(1).is_some_and(|c| c.is_ascii_digit())
}

/// A number or a duration.
fn number(rest: &str) -> Result<(Token, usize), String> {
    let end = |word: &str| {
        word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(word.len())
    };
    let word = rest.get(..end(rest)).unwrap_or_default();
    if let Some(milliseconds) = duration::parse(word) {
        return Ok((Token::Duration(milliseconds), word.len()));
    }
    if let Some(digits) = word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        let value = u64::from_str_radix(digits, 16);
        let value = value.map_err(|_| format!("bad number or duration syntax: {word:?}"))?;
        return Ok((Token::Number(value as f64), word.len()));
    }
    let mut length = 0;
    let mut before = ' ';
    for c in rest.chars() {
        let sign = (c == '+' || c == '-') && matches!(before, 'e' | 'E');
        if !(c.is_ascii_alphanumeric() || c == '.' || sign) {
            break;
        }
        before = c;
        length += 1;
    }
    let word = rest.get(..length).unwrap_or_default();
    match word.parse() {
        Ok(value) => Ok((Token::Number(value), length)),
        Err(_) => Err(format!("bad number or duration syntax: {word:?}")),
    }
}

/// Reads a quoted text with Go's escapes; returns it and the bytes it took.
fn quoted(rest: &str, quote: char) -> Result<(String, usize), String> {
    let mut value = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((value, at + c.len_utf8()));
        }
        if c != '\\' || quote == '`' {
            value.push(c);
            continue;
        }
        let Some((_, escape)) = chars.next() else {
            break;
        };
        let mut code = |digits: usize, radix: u32, first: Option<char>| {
            let more = chars.by_ref().take(digits).map(|(_, c)| c);
            let text: String = first.into_iter().chain(more).collect();
            u32::from_str_radix(&text, radix)
                .ok()
                .and_then(char::from_u32)
        };
        let replaced = match escape {
            'n' => Some('\n'),
            't' => Some('\t'),
            'r' => Some('\r'),
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{c}'),
            'v' => Some('\u{b}'),
            '\\' | '"' | '\'' => Some(escape),
            'x' => code(2, 16, None),
            'u' => code(4, 16, None),
            'U' => code(8, 16, None),
            '0'..='7' => code(2, 8, Some(escape)),
            _ => None,
        };
        value.push(replaced.ok_or_else(|| format!("unknown escape sequence \\{escape}"))?);
    }
    Err("unterminated quoted string".to_owned())
}
