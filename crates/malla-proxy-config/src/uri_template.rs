//! Path templates: `/a/*/b`, `/v{version}/{file=**}`
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/extensions/path/match/uri_template/v3/uri_template_match.proto>).

use crate::checked::{Cx, Invalid, type_name};
use crate::matcher::FullRegex;
use crate::pb::core::TypedExtensionConfig;
use crate::pb::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;

/// What one segment may hold, as a class of a regular expression (`kLiteral` of Envoy's `uri_template_internal.cc`).
const SEGMENT: &str = r"a-zA-Z0-9\-._~%!$&'()+,;:@=";
/// Limits of Envoy's.
const MAX_VARIABLES: usize = 5;
const MAX_NAME: usize = 16;

/// A compiled template; it matches whole paths.
#[derive(Debug, Clone, PartialEq)]
pub struct UriTemplate(FullRegex);

impl UriTemplate {
    pub(crate) fn parse(wire: &TypedExtensionConfig, cx: &mut Cx) -> Result<Self, Invalid> {
        let any = cx.required("typed_config", wire.typed_config.as_ref())?;
        let name = type_name(any);
        if name != "envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig" {
            return Err(cx.invalid(
                "typed_config",
                format!("{name} is not supported by this proxy"),
            ));
        }
        let UriTemplateMatchConfig { path_template } = cx.unpack("typed_config", any)?;
        Self::compile(&path_template)
            .map_err(|reason| cx.invalid("typed_config.path_template", reason))
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// When it is none; the text says why.
    pub fn compile(template: &str) -> Result<Self, String> {
        let mut rest = template
            .strip_prefix('/')
            .ok_or_else(|| format!("`{template}` must begin with /"))?;
        let mut out = String::from("/");
        let mut names: Vec<&str> = Vec::new();
        let mut any_seen = false;
        while let Some(first) = rest.chars().next() {
            if any_seen && (first == '/' || first == '*' || first == '{') {
                return Err(format!("`{template}`: ** must be the last operator"));
            }
            if let Some(after) = rest.strip_prefix('{') {
                let (inside, after) = after
                    .split_once('}')
                    .ok_or_else(|| format!("`{template}`: a {{ is not closed"))?;
                let (name, pattern) = inside.split_once('=').unwrap_or((inside, "*"));
                check_name(name, &names).map_err(|reason| format!("`{template}`: {reason}"))?;
                names.push(name);
                out.push('(');
                any_seen =
                    globs(pattern, &mut out).map_err(|reason| format!("`{template}`: {reason}"))?;
                out.push(')');
                rest = after;
            } else {
                let end = rest.find('{').unwrap_or(rest.len());
                let (plain, after) = rest.split_at(end);
                any_seen =
                    globs(plain, &mut out).map_err(|reason| format!("`{template}`: {reason}"))?;
                rest = after;
            }
        }
        FullRegex::new(&out).map(Self)
    }

    /// True if the path fits.
    pub fn is_match(&self, path: &str) -> bool {
        self.0.is_match(path)
    }
}

fn check_name(name: &str, before: &[&str]) -> Result<(), String> {
    let letters = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(letters) {
        return Err(format!(
            "`{name}` is not a variable's name of 1 to {MAX_NAME} letters"
        ));
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return Err(format!("the variable `{name}` must begin with a letter"));
    }
    if before.contains(&name) {
        return Err(format!("the variable `{name}` is there twice"));
    }
    if before.len() >= MAX_VARIABLES {
        return Err(format!("there are more than {MAX_VARIABLES} variables"));
    }
    Ok(())
}

/// Appends literals and stars; true if `**` was among them.
fn globs(text: &str, out: &mut String) -> Result<bool, String> {
    let mut rest = text;
    let mut any = false;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("**") {
            if any {
                return Err("** is there twice".into());
            }
            any = true;
            out.push_str(&format!("[{SEGMENT}/]*"));
            rest = after;
        } else if let Some(after) = rest.strip_prefix('*') {
            if any {
                return Err("** must be the last operator".into());
            }
            out.push_str(&format!("[{SEGMENT}]+"));
            rest = after;
        } else if matches!(c, '}' | '?' | '#') || c.is_control() || !c.is_ascii() {
            return Err(format!("`{c}` may not be in a template"));
        } else if any && c == '/' {
            return Err("** must be the last operator".into());
        } else {
            let mut buffer = [0; 4];
            out.push_str(&regex::escape(c.encode_utf8(&mut buffer)));
            rest = rest.get(c.len_utf8()..).unwrap_or("");
        }
    }
    Ok(any)
}

#[cfg(test)]
mod tests {
    use super::UriTemplate;

    #[test]
    fn templates_match_whole_paths() {
        let check = |template: &str, path: &str, want: bool| {
            let template = UriTemplate::compile(template).unwrap();
            assert_eq!(template.is_match(path), want, "{template:?} {path}");
        };
        check("/a/*/c", "/a/b/c", true);
        check("/a/*/c", "/a/b/d/c", false);
        check("/a/*/c", "/a//c", false);
        check("/a/**", "/a/", true);
        check("/a/**", "/a/b/c", true);
        check("/a/**", "/b", false);
        check("/**.mpd", "/content/123/manifest.mpd", true);
        check("/v{version}/{id}.json", "/v2/456.json", true);
        check("/v{version}/{id}.json", "/v2/4/56.json", false);
        check("/{file=videos/*}/end", "/videos/x/end", true);
        check("/{rest=**}", "/x/y", true);
        check("/a.b", "/axb", false);
    }

    #[test]
    fn mistakes_are_named() {
        for (template, part) in [
            ("a", "begin with /"),
            ("/{a", "not closed"),
            ("/{a}/{a}", "twice"),
            ("/**/b", "last operator"),
            ("/**/*", "last operator"),
            ("/{1a}", "begin with a letter"),
            ("/{a}/{b}/{c}/{d}/{e}/{f}", "more than 5"),
        ] {
            let error = UriTemplate::compile(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
    }
}
