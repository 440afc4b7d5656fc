//! Tokens in compact form, parsed but not verified.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use malla_xds_proto::json::Unique;
use serde_json::{Map, Value};

use super::status::Status;

/// As lenient as Envoy's decoder: padding may be there, and bits may be left over.
pub(super) const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_encode_padding(false),
);

/// The algorithms of RFC 7518 and RFC 8037 that sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC; the number is that of SHA-2.
    Hs(Sha),
    /// RSASSA-PKCS1-v1_5.
    Rs(Sha),
    /// RSASSA-PSS.
    Ps(Sha),
    /// ECDSA, on the curve that goes with the hash.
    Es(Sha),
    /// Ed25519.
    EdDsa,
}

/// Which SHA-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sha {
    /// SHA-256.
    S256,
    /// SHA-384.
    S384,
    /// SHA-512.
    S512,
}

impl Algorithm {
    /// By its name in tokens; `none` and everything unknown is no algorithm.
    pub fn from_name(name: &str) -> Option<Self> {
        if name == "EdDSA" {
            return Some(Self::EdDsa);
        }
        let (family, bits) = name.split_at_checked(2)?;
        let sha = match bits {
            "256" => Sha::S256,
            "384" => Sha::S384,
            "512" => Sha::S512,
            _ => return None,
        };
        match family {
            "HS" => Some(Self::Hs(sha)),
            "RS" => Some(Self::Rs(sha)),
            "PS" => Some(Self::Ps(sha)),
            "ES" => Some(Self::Es(sha)),
            _ => None,
        }
    }
}

/// A parsed token.
#[derive(Debug, Clone)]
pub struct Token {
    /// The header.
    pub header: Map<String, Value>,
    /// The claims.
    pub claims: Map<String, Value>,
    /// The claims as they were sent.
    pub payload: String,
    /// `alg`.
    pub algorithm: Algorithm,
    /// `alg` as it was written.
    pub algorithm_name: String,
    /// `kid`; empty if there is none.
    pub key_id: String,
    /// `iss`, likewise.
    pub issuer: String,
    /// `sub`, likewise.
    pub subject: String,
    /// `aud`.
    pub audiences: Vec<String>,
    /// `exp` in seconds since 1970; 0 if there is none.
    pub expires: u64,
    /// `nbf`, likewise.
    pub not_before: u64,
    /// What is signed.
    pub signed: String,
    /// The signature.
    pub signature: Vec<u8>,
}

impl Token {
    /// Parses a token.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, Status> {
        let mut parts = text.split('.');
        let (Some(head), Some(body), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Status::BadFormat);
        };
        if head.is_empty() || body.is_empty() || signature.is_empty() {
            return Err(Status::BadFormat);
        }
        let header = object(head, Status::HeaderBadBase64, Status::HeaderBadJson)?;
        let Some(Value::String(algorithm_name)) = header.get("alg").cloned() else {
            return Err(Status::HeaderBadAlg);
        };
        let algorithm =
            Algorithm::from_name(&algorithm_name).ok_or(Status::HeaderNotImplementedAlg)?;
        let key_id = string(&header, "kid", Status::HeaderBadKid)?;
        let claims = object(body, Status::PayloadBadBase64, Status::PayloadBadJson)?;
        let issuer = string(&claims, "iss", Status::IssNotString)?;
        let subject = string(&claims, "sub", Status::SubNotString)?;
        moment(&claims, "iat", Status::IatNotInteger, Status::IatOutOfRange)?;
        let not_before = moment(&claims, "nbf", Status::NbfNotInteger, Status::NbfOutOfRange)?;
        let expires = moment(&claims, "exp", Status::ExpNotInteger, Status::ExpOutOfRange)?;
        string(&claims, "jti", Status::JtiNotString)?;
        let audiences = strings(&claims, "aud")?;
        let signature = BASE64URL
            .decode(signature)
            .map_err(|_| Status::SignatureBadBase64)?;
        Ok(Self {
            signed: format!("{head}.{body}"),
            payload: body.to_owned(),
            header,
            claims,
            algorithm,
            algorithm_name,
            key_id,
            issuer,
            subject,
            audiences,
            expires,
            not_before,
            signature,
        })
    }

    /// Whether it counts at a moment, give or take `skew` seconds.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_time(&self, now: u64, skew: u64) -> Result<(), Status> {
        if now.saturating_add(skew) < self.not_before {
            return Err(Status::NotYetValid);
        }
        if self.expires != 0 && now > self.expires.saturating_add(skew) {
            return Err(Status::Expired);
        }
        Ok(())
    }
}

fn object(text: &str, bad_base64: Status, bad_json: Status) -> Result<Map<String, Value>, Status> {
    let bytes = BASE64URL.decode(text).map_err(|_| bad_base64)?;
    // No name may stand twice (RFC 7519 §4).
    match serde_json::from_slice(&bytes) {
        Ok(Unique(Value::Object(object))) => Ok(object),
        Ok(Unique(_)) | Err(_) => Err(bad_json),
    }
}

fn string(object: &Map<String, Value>, key: &str, wrong: Status) -> Result<String, Status> {
    match object.get(key) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(wrong),
    }
}

fn moment(
    object: &Map<String, Value>,
    key: &str,
    wrong: Status,
    out_of_range: Status,
) -> Result<u64, Status> {
    let number = match object.get(key) {
        None => return Ok(0),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(wrong),
    };
    if let Some(number) = number.as_u64() {
        return Ok(number);
    }
    let float = number.as_f64().ok_or(out_of_range)?;
    // 2^64; a fraction of a second does not count.
    match (0.0..18_446_744_073_709_551_616.0).contains(&float) {
        true => Ok(float as u64),
        false => Err(out_of_range),
    }
}

fn strings(object: &Map<String, Value>, key: &str) -> Result<Vec<String>, Status> {
    match object.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => Ok(text.clone()),
                _ => Err(Status::AudNotString),
            })
            .collect(),
        Some(_) => Err(Status::AudNotString),
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use proptest::prelude::{any, proptest};

    use super::{BASE64URL, Token};
    use crate::jwt::status::Status;

    fn token(header: &str, claims: &str) -> String {
        let encode = |text: &str| BASE64URL.encode(text);
        format!("{}.{}.{}", encode(header), encode(claims), encode("sig"))
    }

    #[test]
    fn mistakes_are_told_apart() {
        let check = |header: &str, claims: &str, want: Status| {
            let got = Token::parse(&token(header, claims)).unwrap_err();
            assert_eq!(got, want, "{header} {claims}");
        };
        let good = r#"{"alg":"RS256"}"#;
        check("{", "{}", Status::HeaderBadJson);
        check("{}", "{}", Status::HeaderBadAlg);
        check(r#"{"alg":1}"#, "{}", Status::HeaderBadAlg);
        check(r#"{"alg":"none"}"#, "{}", Status::HeaderNotImplementedAlg);
        check(r#"{"alg":"NONE"}"#, "{}", Status::HeaderNotImplementedAlg);
        check(r#"{"alg":""}"#, "{}", Status::HeaderNotImplementedAlg);
        check(r#"{"alg":"RS256","kid":1}"#, "{}", Status::HeaderBadKid);
        check(good, "[]", Status::PayloadBadJson);
        check(good, r#"{"a":1,"a":2}"#, Status::PayloadBadJson);
        check(good, r#"{"a":[{"b":1,"b":1}]}"#, Status::PayloadBadJson);
        check(good, r#"{"iss":1}"#, Status::IssNotString);
        check(good, r#"{"sub":[]}"#, Status::SubNotString);
        check(good, r#"{"iat":"1"}"#, Status::IatNotInteger);
        check(good, r#"{"nbf":-1}"#, Status::NbfOutOfRange);
        check(good, r#"{"exp":1e30}"#, Status::ExpOutOfRange);
        check(good, r#"{"jti":1}"#, Status::JtiNotString);
        check(good, r#"{"aud":["a",1]}"#, Status::AudNotString);
        for text in ["", "a", "a.b", "a.b.c.d", "...", "..", "a.b.", "a..c"] {
            assert_eq!(Token::parse(text).unwrap_err(), Status::BadFormat, "{text}");
        }
        assert_eq!(
            Token::parse("!.e30.x").unwrap_err(),
            Status::HeaderBadBase64
        );
    }

    #[test]
    fn moments_have_a_margin() {
        let claims = r#"{"nbf":1000,"exp":2000}"#;
        let token = Token::parse(&token(r#"{"alg":"HS256"}"#, claims)).unwrap();
        let check = |now, want| assert_eq!(token.check_time(now, 60), want, "{now}");
        check(939, Err(Status::NotYetValid));
        check(940, Ok(()));
        check(2060, Ok(()));
        check(2061, Err(Status::Expired));
        check(u64::MAX, Err(Status::Expired));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>(), header in any::<String>(), claims in any::<String>()) {
            let _ = Token::parse(&text);
            let _ = Token::parse(&token(&header, &claims));
        }
    }
}
