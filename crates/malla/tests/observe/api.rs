//! The console's API, asked by curl.

use malla_testkit::Request;
use serde_json::Value;

pub(crate) struct Api {
    origin: String,
}

impl Api {
    pub(crate) fn new(console: &str) -> Self {
        assert!(console.starts_with("http://127.0.0.1:"), "{console}");
        Self {
            origin: console.trim_end_matches('/').to_owned(),
        }
    }

    pub(crate) fn get(&self, path: &str) -> Result<Value, String> {
        Request::get(&format!("{}{path}", self.origin))
            .send()?
            .expect(200)?
            .json()
    }

    /// The value of the only sample of a PromQL query.
    pub(crate) fn value(&self, query: &str) -> Option<f64> {
        let answer = self
            .get(&format!("/api/v1/query?query={}", encoded(query)))
            .unwrap();
        let value = answer["data"]["result"][0]["value"][1].as_str()?;
        value.parse().ok()
    }
}

/// For a query string.
pub(crate) fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}

pub(crate) fn edge<'a>(graph: &'a Value, source: &str, target: &str) -> Result<&'a Value, String> {
    let edges = graph["edges"].as_array().ok_or("no edges")?;
    let mut found = edges
        .iter()
        .filter(|edge| edge["source"] == source && edge["target"] == target);
    found.next().ok_or_else(|| {
        let ids: Vec<&Value> = edges.iter().map(|edge| &edge["id"]).collect();
        format!("no edge from {source} to {target} among {ids:?}")
    })
}
