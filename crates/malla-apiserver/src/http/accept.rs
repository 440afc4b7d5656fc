//! What form of answer the client takes.

use http::{HeaderMap, header};

use crate::error::{ApiError, Reason};

/// The gnostic form of an OpenAPI v2 document.
const OPENAPI_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";

/// How an object is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is.
    Object,
    /// `meta.k8s.io/v1 Table`.
    Table,
    /// `meta.k8s.io/v1 PartialObjectMetadata`, or a list of them.
    Metadata,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Yaml,
}

/// The parsed `Accept` header: media ranges in order of preference.
#[derive(Debug, Clone, Default)]
pub(super) struct Accept(Vec<Range>);

#[derive(Debug, Clone, Default, PartialEq)]
struct Range {
    media: String,
    shape: String,
    group: String,
    version: String,
    quality: f32,
}

impl Accept {
    pub(super) fn parse(headers: &HeaderMap) -> Self {
        let texts = headers.get_all(header::ACCEPT).iter();
        let texts = texts.filter_map(|value| value.to_str().ok());
        let mut ranges: Vec<Range> = texts
            .flat_map(|text| text.split(','))
            .map(Range::parse)
            .filter(|range| range.quality > 0.0)
            .collect();
        ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
        Self(ranges)
    }

    /// The first range that can be served; 406 if there is none.
    pub(super) fn negotiate(&self) -> Result<(Form, Encoding), ApiError> {
        if self.0.is_empty() {
            return Ok((Form::Object, Encoding::Json));
        }
        let served = self.0.iter().find_map(Range::served);
        served.ok_or_else(not_acceptable)
    }

    /// Whether JSON is among what is taken.
    pub(super) fn json(&self) -> bool {
        self.0.is_empty() || self.0.iter().any(Range::is_json)
    }

    /// Whether the OpenAPI v2 document is asked for as protobuf.
    pub(super) fn openapi_protobuf(&self) -> bool {
        self.0
            .first()
            .is_some_and(|range| range.media == OPENAPI_PROTOBUF)
    }

    /// Whether aggregated discovery is asked for.
    pub(super) fn aggregated(&self) -> bool {
        self.0.iter().any(|range| {
            range.is_json()
                && range.group == "apidiscovery.k8s.io"
                && range.version == "v2"
                && range.shape == "APIGroupDiscoveryList"
        })
    }
}

impl Range {
    fn parse(text: &str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let mut range = Self {
            media: parts.next().unwrap_or("").to_ascii_lowercase(),
            quality: 1.0,
            ..Self::default()
        };
        for part in parts {
            match part.split_once('=') {
                Some(("as", shape)) => shape.clone_into(&mut range.shape),
                Some(("g", group)) => group.clone_into(&mut range.group),
                Some(("v", version)) => version.clone_into(&mut range.version),
                Some(("q", quality)) => range.quality = quality.parse().unwrap_or(1.0),
                _ => {}
            }
        }
        range
    }

    fn is_json(&self) -> bool {
        matches!(
            self.media.as_str(),
            "application/json" | "application/*" | "*/*"
        )
    }

    fn served(&self) -> Option<(Form, Encoding)> {
        let encoding = match self.media.as_str() {
            "application/yaml" => Encoding::Yaml,
            _ if self.is_json() => Encoding::Json,
            _ => return None,
        };
        let meta = self.group == "meta.k8s.io" && self.version == "v1";
        let form = match self.shape.as_str() {
            "" => Form::Object,
            "Table" if meta => Form::Table,
            "PartialObjectMetadata" | "PartialObjectMetadataList" if meta => Form::Metadata,
            _ => return None,
        };
        Some((form, encoding))
    }
}

pub(super) fn not_acceptable() -> ApiError {
    ApiError::new(
        Reason::NotAcceptable,
        "only the following media types are accepted: application/json, application/yaml",
    )
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header};

    use super::{Accept, Encoding, Form};

    #[test]
    fn kubectl_gets_what_it_asks() {
        let check = |text: &str, want: Option<(Form, Encoding)>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, text.parse().unwrap());
            assert_eq!(Accept::parse(&headers).negotiate().ok(), want, "{text}");
        };
        check(
            "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
            Some((Form::Table, Encoding::Json)),
        );
        check(
            "application/vnd.kubernetes.protobuf,application/json",
            Some((Form::Object, Encoding::Json)),
        );
        check("application/vnd.kubernetes.protobuf", None);
        check(
            "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            Some((Form::Metadata, Encoding::Json)),
        );
        check("application/yaml", Some((Form::Object, Encoding::Yaml)));
        check(
            "application/json;q=0.1, application/yaml",
            Some((Form::Object, Encoding::Yaml)),
        );
        check("*/*", Some((Form::Object, Encoding::Json)));
        check("text/html", None);
    }
}
