//! `grpc-status`, as numbers and by its names.

use super::{Source, Value};
use crate::telemetry::access_log::grpc_from_http;

/// Names of the statuses as Envoy prints them, and as the protocol spells them.
const NAMES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

impl<'a> Source<'a> {
    /// Of gRPC requests only: what came, or what the HTTP status stands for.
    pub(super) fn grpc_status(&self) -> Option<u32> {
        let record = self.record;
        let status = || record.grpc_status.or(record.status.map(grpc_from_http));
        record.grpc.then(status).flatten()
    }

    /// `InvalidArgument`; a status without a name is its number.
    pub(super) fn grpc_name(&self) -> Value<'a> {
        self.named(|(camel, _)| camel)
    }

    /// `INVALID_ARGUMENT`, likewise.
    pub(super) fn grpc_snake(&self) -> Value<'a> {
        self.named(|(_, snake)| snake)
    }

    fn named(&self, form: impl Fn((&'static str, &'static str)) -> &'static str) -> Value<'a> {
        let Some(code) = self.grpc_status() else {
            return Value::None;
        };
        match NAMES.get(code as usize) {
            Some(names) => Value::Text(form(*names)),
            None => Value::Owned(code.to_string()),
        }
    }
}
