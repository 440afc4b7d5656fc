//! Path normalisation as Envoy (which uses Chromium's canonicaliser) does it.

use std::borrow::Cow;

/// Resolves `.` and `..`, turns `\` into `/`, decodes `%XX` of unreserved characters. Works on the part before the
/// query. `None` if the path cannot be normalised.
pub(super) fn canonical(path: &str) -> Option<Cow<'_, str>> {
    if is_canonical(path) {
        return Some(Cow::Borrowed(path));
    }
    let decoded = decode_unreserved(path)?;
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = decoded.strip_prefix('/')?.split('/').peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            part => segments.push(part),
        }
    }
    let mut out = String::with_capacity(decoded.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() {
        out.push('/');
    }
    Some(Cow::Owned(out))
}

/// The common case: nothing in it could change.
fn is_canonical(path: &str) -> bool {
    path.starts_with('/')
        && !path
            .bytes()
            .any(|byte| matches!(byte, b'%' | b'\\') || !byte.is_ascii_graphic())
        && !path.contains("/.")
}

/// `%XX` of letters, digits, `-`, `.`, `_`, `~` decoded; bytes no path may have encoded; `\` becomes `/`.
fn decode_unreserved(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    // Where in `out` the last `%` is that starts no escape.
    let mut bare = None;
    let mut rest = path.as_bytes();
    while let Some(byte) = rest.first().copied() {
        match byte {
            b'\\' => out.push('/'),
            b'%' => match rest.get(1..3).and_then(hex) {
                Some(0) => return None,
                Some(value)
                    if value.is_ascii_alphanumeric()
                        || matches!(value, b'-' | b'.' | b'_' | b'~') =>
                {
                    out.push(char::from(value));
                    rest = rest.get(3..).unwrap_or_default();
                    guard_bare(&mut out, bare, rest);
                    continue;
                }
                // One that must stay: copied as it is.
                Some(_) => out.push('%'),
                None => {
                    bare = Some(out.len());
                    out.push('%');
                }
            },
            0 => return None,
            byte if byte.is_ascii_graphic() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    Some(out)
}

/// Decoding must not make an escape out of a `%` that was none: `%%32e` would become `%2e`, which whoever comes next
/// reads as a dot. Such a `%` is escaped itself (Chromium's `CheckForNestedEscapes`).
fn guard_bare(out: &mut String, bare: Option<usize>, next: &[u8]) {
    let Some(at) = bare else { return };
    let mut code = out.as_bytes().get(at + 1..).unwrap_or_default().to_vec();
    if code.len() == 1 {
        code.extend(next.first());
    }
    if hex(&code).is_some() {
        out.insert_str(at + 1, "25");
    }
}

fn hex(digits: &[u8]) -> Option<u8> {
    let &[high, low] = digits else { return None };
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    Some(digit(high)? * 16 + digit(low)?)
}

/// `//` becomes `/`.
pub(super) fn merge_slashes(path: &str) -> Cow<'_, str> {
    if !path.contains("//") {
        return Cow::Borrowed(path);
    }
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

/// `%2F` and `%5C`, in any case, decoded; `None` if there is none.
pub(super) fn unescape_slashes(path: &str) -> Option<String> {
    let lower = path.to_ascii_lowercase();
    if !lower.contains("%2f") && !lower.contains("%5c") {
        return None;
    }
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        let (before, after) = rest.split_at(at);
        out.push_str(before);
        let code = after.get(..3).unwrap_or(after);
        let slash = match code.to_ascii_lowercase().as_str() {
            "%2f" => Some('/'),
            "%5c" => Some('\\'),
            _ => None,
        };
        match slash {
            Some(slash) => {
                out.push(slash);
                rest = after.get(3..).unwrap_or("");
            }
            None => {
                out.push('%');
                rest = after.get(1..).unwrap_or("");
            }
        }
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::{canonical, merge_slashes, unescape_slashes};

    #[test]
    fn dots_and_escapes_are_resolved() {
        let check =
            |path: &str, want: Option<&str>| assert_eq!(canonical(path).as_deref(), want, "{path}");
        check("/a/b", Some("/a/b"));
        check("/a/./b", Some("/a/b"));
        check("/a/../b", Some("/b"));
        check("/..", Some("/"));
        check("/a/..", Some("/"));
        check("/a/b/..", Some("/a/"));
        check("/a/%2e%2E/b", Some("/b"));
        check("/%41%7E%2d", Some("/A~-"));
        check("/a%2Fb", Some("/a%2Fb"));
        check("/a\\b", Some("/a/b"));
        check("/a%00", None);
        check("/a\0", None);
        check("/a%zz", Some("/a%zz"));
        check("/a%4", Some("/a%4"));
        check("/%%32e%%32e/b", Some("/%252e%252e/b"));
        check("/%%30%30", Some("/%2500"));
        check("/%2%65", Some("/%252e"));
        check("a", None);
        check("//a//b", Some("//a//b"));
        check("/.hidden", Some("/.hidden"));
    }

    #[test]
    fn slashes_are_merged_and_unescaped() {
        assert_eq!(merge_slashes("//a///b/"), "/a/b/");
        assert_eq!(merge_slashes("/a/b"), "/a/b");
        assert_eq!(
            unescape_slashes("/a%2fb%5Cc%41").as_deref(),
            Some("/a/b\\c%41")
        );
        assert_eq!(unescape_slashes("/a%41"), None);
    }
}
