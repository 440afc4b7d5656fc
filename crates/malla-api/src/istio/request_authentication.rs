//! RequestAuthentication: which JWTs are believed.

use schemars::{JsonSchema, Schema};
use serde::Deserialize;

use super::common::{
    ONE_ATTACHMENT, ONE_ATTACHMENT_MESSAGE, PolicyTargetReference, WorkloadSelector,
};
use crate::duration::Duration;
use crate::schema::{each, limit, pattern, required, rule};

/// Which JWTs are believed. A bad token is refused; a missing one only by an AuthorizationPolicy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule(ONE_ATTACHMENT, ONE_ATTACHMENT_MESSAGE))]
pub struct RequestAuthenticationSpec {
    /// Only these workloads; absent is the whole namespace, or the mesh in the root namespace.
    pub selector: Option<WorkloadSelector>,
    /// Only for this object.
    pub target_ref: Option<PolicyTargetReference>,
    /// Only for these objects.
    #[schemars(transform = limit("maxItems", 16))]
    pub target_refs: Vec<PolicyTargetReference>,
    /// Issuers and how their tokens are checked.
    #[schemars(transform = limit("maxItems", 4096))]
    pub jwt_rules: Vec<JwtRule>,
}

/// One issuer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = rule("(has(self.jwksUri) ? 1 : 0) + (has(self.jwks_uri) ? 1 : 0) + (has(self.jwks) ? 1 : 0) <= 1", "only one of jwks or jwksUri can be set"))]
pub struct JwtRule {
    /// The token's `iss`.
    #[schemars(transform = limit("minLength", 1))]
    pub issuer: Option<String>,
    /// Accepted `aud`, any of these; none accepts all.
    #[schemars(transform = each("minLength", 1))]
    pub audiences: Vec<String>,
    /// Where the keys are.
    #[schemars(transform = jwks_uri)]
    pub jwks_uri: Option<String>,
    /// Where the keys are, by its protobuf name.
    #[serde(rename = "jwks_uri")]
    #[schemars(transform = jwks_uri)]
    pub jwks_uri_snake: Option<String>,
    /// The keys themselves.
    pub jwks: Option<String>,
    /// Headers the token may be in; the default is `Authorization: Bearer`.
    pub from_headers: Vec<JwtHeader>,
    /// Query parameters the token may be in; the default is `access_token`.
    #[schemars(transform = each("minLength", 1))]
    pub from_params: Vec<String>,
    /// Cookies the token may be in.
    #[schemars(transform = each("minLength", 1))]
    pub from_cookies: Vec<String>,
    /// Header that carries the checked payload on, base64url.
    pub output_payload_to_header: Option<String>,
    /// Keep the token on the forwarded request.
    pub forward_original_token: bool,
    /// Claims to copy to headers.
    pub output_claim_to_headers: Vec<ClaimToHeader>,
    /// Time limit of fetching the keys; absent is 5s.
    pub timeout: Option<Duration>,
    /// Claims whose text is a list, besides `scope` and `permission`.
    #[schemars(transform = limit("maxItems", 64), transform = each("minLength", 1))]
    pub space_delimited_claims: Vec<String>,
    /// Accepted; nothing reads it.
    pub presence: Option<String>,
}

fn jwks_uri(schema: &mut Schema) {
    limit("minLength", 1)(schema);
    limit("maxLength", 2048)(schema);
    rule(
        "url(self).getScheme() in ['http', 'https']",
        "url must have scheme http:// or https://",
    )(schema);
}

/// A header the token may be in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("name"))]
pub struct JwtHeader {
    /// Name of the header.
    #[schemars(transform = limit("minLength", 1))]
    pub name: String,
    /// Text before the token, with its space.
    pub prefix: Option<String>,
}

/// A claim to copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase")]
#[schemars(transform = required("header claim"))]
pub struct ClaimToHeader {
    /// Name of the header.
    #[schemars(transform = limit("minLength", 1), transform = pattern("^[-_A-Za-z0-9]+$"))]
    pub header: String,
    /// Name of the claim; `a.b` is nested.
    #[schemars(transform = limit("minLength", 1))]
    pub claim: String,
}
