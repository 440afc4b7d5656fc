//! How long functions are, by matching braces. Rough: it knows strings, characters and comments, but not macros.

/// Line, name and length of every function longer than `limit` lines.
pub(super) fn longer_than(text: &str, limit: usize) -> Vec<(usize, String, usize)> {
    let plain = without_literals(text);
    let lines: Vec<&str> = plain.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else {
            continue;
        };
        if let Some(length) = length_of_body(&lines, at).filter(|length| *length > limit) {
            found.push((at + 1, name.to_owned(), length));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let at = line.find("fn ")?;
    let before = line.get(..at)?.trim_end();
    let keyword = |word: &str| {
        ["pub", "async", "const", "unsafe", "default", "extern"].contains(&word)
            || word.starts_with("pub(")
            || word.ends_with(')')
    };
    if !before.split_whitespace().all(keyword) {
        return None;
    }
    let rest = line.get(at + 3..)?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_')
        .next()
        .filter(|name| !name.is_empty())
}

fn length_of_body(lines: &[&str], start: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut opened = false;
    for (offset, line) in lines.iter().skip(start).enumerate() {
        for c in line.chars() {
            match c {
                '{' => {
                    depth += 1;
                    opened = true;
                }
                '}' => depth = depth.saturating_sub(1),
                ';' if !opened && depth == 0 => return None, // a declaration
                _ => {}
            }
        }
        if opened && depth == 0 {
            return Some(offset + 1);
        }
    }
    None
}

/// The text with the insides of strings, characters and comments blanked out, lines kept.
fn without_literals(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let chars: Vec<char> = text.chars().collect();
    let mut at = 0;
    while let Some(&c) = chars.get(at) {
        let end = match (c, chars.get(at + 1)) {
            ('/', Some('/')) => end_of(&chars, at, |rest| rest.first() == Some(&'\n'), 0),
            ('/', Some('*')) => end_of(&chars, at + 2, |rest| rest.starts_with(&['*', '/']), 2),
            ('r', Some('"' | '#')) if raw_hashes(&chars, at).is_some() => {
                let hashes = raw_hashes(&chars, at).unwrap_or(0);
                let close: Vec<char> = std::iter::once('"')
                    .chain(std::iter::repeat_n('#', hashes))
                    .collect();
                end_of(
                    &chars,
                    at + 2 + hashes,
                    |rest| rest.starts_with(&close),
                    close.len(),
                )
            }
            ('"', _) => end_of_string(&chars, at + 1),
            ('\'', Some('\\')) => end_of(&chars, at + 3, |rest| rest.first() == Some(&'\''), 1),
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => {
                out.push(c);
                at += 1;
                continue;
            }
        };
        out.extend(
            chars
                .get(at..end.min(chars.len()))
                .into_iter()
                .flatten()
                .filter(|c| **c == '\n'),
        );
        at = end;
    }
    out
}

fn raw_hashes(chars: &[char], at: usize) -> Option<usize> {
    let hashes = chars
        .get(at + 1..)?
        .iter()
        .take_while(|c| **c == '#')
        .count();
    (chars.get(at + 1 + hashes) == Some(&'"')).then_some(hashes)
}

fn end_of(chars: &[char], from: usize, done: impl Fn(&[char]) -> bool, skip: usize) -> usize {
    (from..chars.len())
        .find(|at| chars.get(*at..).is_some_and(&done))
        .map_or(chars.len(), |at| at + skip)
}

fn end_of_string(chars: &[char], from: usize) -> usize {
    let mut at = from;
    while let Some(c) = chars.get(at) {
        match c {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_ignore_braces_in_literals() {
        let text = "fn short() { let a = \"{{{\"; }\n\npub(crate) async fn long() {\n  // }\n  let c = '}';\n  let r = r#\"}\"#;\n}\n";
        assert_eq!(longer_than(text, 2), [(3, "long".to_owned(), 5)]);
    }

    #[test]
    fn declarations_have_no_length() {
        assert!(longer_than("trait T {\n fn a(\n &self,\n b: u8);\n}\n", 1).is_empty());
    }
}
