//! What the node reads off pods, containers and logs.

use serde_json::Value;

use super::env::Environment;
use super::{Images, fields, grpc, images, logs};

/// A quantity in thousandths.
pub fn milli(text: &str) -> Option<i128> {
    fields::milli(text).ok()
}

/// A command's argument with `$(A)` and `$(B)` filled in.
pub fn expand(text: &str) -> String {
    let mut environment = Environment::default();
    environment.set("A", "1".to_owned());
    environment.set("B", "$(A)".to_owned());
    environment.expand(text)
}

pub fn glob(pattern: &str, text: &str) -> bool {
    images::glob(pattern, text)
}

/// Looks an image up in a table that users edit.
pub fn images(config_map: &Value, reference: &str) {
    let table = Images::new(super::Image::everyday());
    table.edit(Some(config_map));
    table.find(reference);
}

/// The answer of a container's gRPC health service.
pub fn health(answer: &[u8]) -> bool {
    grpc::verdict(answer).is_ok()
}

/// A line of a container's log, as the user sees it.
pub fn log_line(entry: &[u8]) -> Option<Vec<u8>> {
    logs::show(entry)
}
