//! Distinguished names as text, the way OpenSSL and Envoy print them.

use x509_parser::x509::X509Name;

/// `CN=a,O=b` (RFC 2253, RFC 4514): last attribute first, with RFC 2253's escapes, as OpenSSL's `XN_FLAG_RFC2253` and Envoy print it.
#[must_use]
pub fn text(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = Vec::new();
    for rdn in name.iter_rdn() {
        let attributes: Vec<String> = rdn
            .iter()
            .map(|attribute| {
                let oid = attribute.attr_type();
                let label =
                    x509_parser::objects::oid2abbrev(oid, x509_parser::objects::oid_registry())
                        .map_or_else(|_| oid.to_id_string(), str::to_owned);
                format!("{label}={}", escape(attribute.as_str().unwrap_or_default()))
            })
            .collect();
        parts.push(attributes.join("+"));
    }
    parts.reverse();
    parts.join(",")
}

fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (index, c) in value.chars().enumerate() {
        let special = matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';')
            || (c == '#' && index == 0)
            || (c == ' ' && (index == 0 || index == last));
        if special {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn what_has_a_meaning_is_escaped() {
        for (value, want) in [
            ("plain", "plain"),
            ("a, \"b\"", "a\\, \\\"b\\\""),
            (" edge ", "\\ edge\\ "),
            ("#1", "\\#1"),
            ("1#", "1#"),
        ] {
            assert_eq!(escape(value), want);
        }
    }
}
