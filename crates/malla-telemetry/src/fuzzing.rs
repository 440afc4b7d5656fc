//! Parsers that only this crate uses, for `fuzz/`; compiled with `--cfg fuzzing` alone.

use opentelemetry_proto::tonic::trace::v1::ResourceSpans;

use crate::metrics::chunk::Samples;
use crate::metrics::wal;
use crate::spans::model::convert;
use crate::spans::{otlp, zipkin};

/// Spans in Zipkin's JSON and in both of OTLP's forms: how many could be kept.
pub fn spans(body: &[u8]) -> usize {
    let kept = |spans: Vec<ResourceSpans>| convert(spans).spans.len();
    kept(zipkin::parse(body).unwrap_or_default())
        + otlp::fuzzing::requests(body).map(kept).sum::<usize>()
}

/// A segment of the metrics' log: how many bytes of it could not be read.
pub fn journal(segment: &[u8]) -> u64 {
    wal::read(segment, |_| ())
}

/// A chunk of samples: how many there are in it.
pub fn chunk(count: u16, data: &[u8]) -> usize {
    Samples::new(data, count).count()
}
