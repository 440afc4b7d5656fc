//! What the services say to each other and to the page: field names and number formats are part
//! of the interface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, Serializer};

/// Where a process runs.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) pod: String,
    pub(crate) region: String,
}

impl Place {
    pub(crate) fn info(&self, service: &str) -> MeshInfo {
        MeshInfo {
            service: service.to_owned(),
            pod: self.pod.clone(),
            region: self.region.clone(),
        }
    }
}

/// One row of the floating window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
pub(crate) struct MeshInfo {
    pub(crate) service: String,
    pub(crate) pod: String,
    pub(crate) region: String,
}

/// Answer of `/stock`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Stock {
    pub(crate) quantity: BTreeMap<i64, i64>,
    pub(crate) info: Vec<MeshInfo>,
}

/// Answer of `/cart` and `/list`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Cart {
    pub(crate) products: Vec<CartLine>,
    pub(crate) info: Vec<MeshInfo>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct CartLine {
    pub(crate) pid: i64,
    pub(crate) num: i64,
    pub(crate) stock: i64,
}

/// What the page posts to `/order`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Basket {
    pub(crate) products: Vec<OrderLine>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct OrderLine {
    pub(crate) pid: i64,
    #[serde(serialize_with = "go_float")]
    pub(crate) price: f64,
    pub(crate) num: i64,
}

/// Answer of `/order`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Order {
    #[serde(serialize_with = "go_float")]
    pub(crate) subtotal: f64,
    #[serde(serialize_with = "go_float")]
    pub(crate) shopping: f64,
    #[serde(serialize_with = "go_float")]
    pub(crate) point: f64,
    #[serde(serialize_with = "go_float")]
    pub(crate) total: f64,
    pub(crate) success: bool,
    pub(crate) info: Vec<MeshInfo>,
    pub(crate) products: Vec<OrderLine>,
}

/// Answer of `/user`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct User {
    #[serde(rename = "UserID")]
    pub(crate) user_id: i64,
    #[serde(rename = "Vip")]
    pub(crate) vip: bool,
    #[serde(rename = "Name")]
    pub(crate) name: String,
    #[serde(rename = "Info", default)]
    pub(crate) info: Vec<MeshInfo>,
}

/// Answer of `/clear`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Cleared {
    pub(crate) success: &'static str,
}

/// Go writes 100.0 as `100`.
#[allow(clippy::trivially_copy_pass_by_ref, clippy::cast_possible_truncation)] // serde's signature; checked to be whole and small
fn go_float<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        serializer.serialize_i64(*value as i64)
    } else {
        serializer.serialize_f64(*value)
    }
}

/// JSON with Python's separators, `, ` and `: `.
pub(crate) fn python_json(value: &impl Serialize) -> String {
    let mut out = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, Python);
    match value.serialize(&mut serializer) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(error) => format!("{{\"error\": \"{error}\"}}"),
    }
}

/// JSON as Go's encoder writes it.
pub(crate) fn go_json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"))
}

struct Python;

impl serde_json::ser::Formatter for Python {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
    ) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_separators_are_the_originals() {
        let line = OrderLine {
            pid: 1,
            price: 100.0,
            num: 2,
        };
        assert_eq!(go_json(&line), r#"{"Pid":1,"Price":100,"Num":2}"#);
        assert_eq!(
            go_json(&OrderLine { price: 0.5, ..line }),
            r#"{"Pid":1,"Price":0.5,"Num":2}"#
        );
        let stock = Stock {
            quantity: [(1, 200), (3, 0)].into(),
            info: vec![],
        };
        assert_eq!(
            python_json(&stock),
            r#"{"Quantity": {"1": 200, "3": 0}, "Info": []}"#
        );
    }
}
