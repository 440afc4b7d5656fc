//! Secrets: RESOURCE NAME, TYPE, STATUS, VALID CERT, SERIAL NUMBER, NOT AFTER, NOT BEFORE.

use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use x509_parser::pem::Pem;

use super::text;
use crate::table::Table;

pub(super) fn table(entries: &[Value]) -> Table {
    let heading = [
        "RESOURCE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
    ];
    let mut table = Table::new(heading);
    for entry in entries {
        for row in rows(entry, SystemTime::now()) {
            table.row(row);
        }
    }
    table
}

fn rows(entry: &Value, now: SystemTime) -> Vec<[String; 7]> {
    let since = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let now = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let (name, state) = (text(&entry["name"]), text(&entry["state"]));
    let secret = &entry["secret"];
    let sources = [
        (
            "Cert Chain",
            &secret["tls_certificate"]["certificate_chain"],
        ),
        ("CA", &secret["validation_context"]["trusted_ca"]),
    ];
    let mut rows = Vec::new();
    for (kind, source) in sources {
        for certificate in certificates(source) {
            let valid = (certificate.not_before..=certificate.not_after).contains(&now);
            rows.push([
                name.to_owned(),
                kind.to_owned(),
                state.to_owned(),
                valid.to_string(),
                certificate.serial,
                time(certificate.not_after),
                time(certificate.not_before),
            ]);
        }
    }
    if rows.is_empty() {
        let none = String::new;
        let invalid = "false".to_owned();
        rows.push([
            name.to_owned(),
            none(),
            state.to_owned(),
            invalid,
            none(),
            none(),
            none(),
        ]);
    }
    rows
}

struct Certificate {
    serial: String,
    /// Seconds since 1970.
    not_before: i64,
    not_after: i64,
}

/// The certificates of a `DataSource`; none of one that is a file, or damaged.
fn certificates(source: &Value) -> Vec<Certificate> {
    let inline = source["inline_bytes"].as_str();
    let pem = match inline.map(|text| BASE64_STANDARD.decode(text)) {
        Some(Ok(bytes)) => bytes,
        _ => text(&source["inline_string"]).as_bytes().to_vec(),
    };
    let blocks = Pem::iter_from_buffer(&pem).filter_map(Result::ok);
    let read = blocks.filter_map(|block| {
        let certificate = block.parse_x509().ok()?;
        let validity = certificate.validity();
        Some(Certificate {
            serial: format!("{:0>32}", certificate.serial.to_str_radix(16)),
            not_before: validity.not_before.timestamp(),
            not_after: validity.not_after.timestamp(),
        })
    });
    read.collect()
}

/// RFC 3339.
fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map(|time| time.to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use malla_identity::authority::Authority;
    use serde_json::json;

    use super::*;

    #[test]
    fn certificates_are_shown_with_their_times() {
        let now = SystemTime::now();
        let authority = Authority::self_signed("cluster.local", now).unwrap();
        let pem = authority.roots_pem();
        let entry = json!({"name": "ROOTCA", "state": "ACTIVE", "secret": {
            "validation_context": {"trusted_ca": {"inline_bytes": BASE64_STANDARD.encode(pem.as_bytes())}},
        }});
        let [row] = &rows(&entry, now)[..] else {
            panic!("one certificate")
        };
        assert_eq!(row[..4], ["ROOTCA", "CA", "ACTIVE", "true"]);
        assert!(row[5] > row[6] && row[5].ends_with('Z'), "{row:?}");
        let later = now + std::time::Duration::from_secs(20 * 365 * 86_400);
        assert_eq!(rows(&entry, later)[0][3], "false");
        let missing = json!({"name": "default", "state": "WARMING"});
        assert_eq!(
            rows(&missing, now)[0][..4],
            ["default", "", "WARMING", "false"]
        );
    }
}
