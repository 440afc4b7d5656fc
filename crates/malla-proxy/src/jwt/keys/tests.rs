//! Vectors of the standards, and what attackers try.

use aws_lc_rs::hmac;
use base64::Engine as _;
use proptest::prelude::{any, proptest};
use serde_json::{Value, json};

use super::Jwks;
use crate::jwt::status::Status;
use crate::jwt::token::{Algorithm, BASE64URL, Token};

const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const SECRET: &str =
    "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
const MODULUS: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RS256: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const ES256: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const ES512: &str = "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
const EDDSA: &str =
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

fn secret() -> Value {
    json!({"kty": "oct", "k": SECRET})
}

fn rsa() -> Value {
    json!({"kty": "RSA", "n": MODULUS, "e": "AQAB"})
}

fn p256() -> Value {
    json!({"kty": "EC", "crv": "P-256",
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"})
}

fn p521() -> Value {
    json!({"kty": "EC", "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"})
}

fn ed25519() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
}

fn set(keys: &[Value]) -> Result<Jwks, Status> {
    Jwks::parse(&json!({ "keys": keys }).to_string())
}

/// A token whose payload need not be JSON, and whose signature may be empty.
fn token(algorithm: &str, signed: &str, signature: &str) -> Token {
    let text = format!("{}.e30.AA", BASE64URL.encode(r#"{"alg":"RS256"}"#));
    let mut token = Token::parse(&text).unwrap();
    token.algorithm = Algorithm::from_name(algorithm).unwrap();
    token.algorithm_name = algorithm.to_owned();
    token.signed = signed.to_owned();
    token.signature = BASE64URL.decode(signature).unwrap();
    token
}

#[test]
fn vectors_of_the_standards_hold() {
    let head = |alg: &str| BASE64URL.encode(format!(r#"{{"alg":"{alg}"}}"#));
    let hs256 = format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}");
    let check = |name: &str, key: Value, signed: String, signature: &str| {
        let keys = set(&[key]).unwrap();
        assert_eq!(
            keys.verify(&token(name, &signed, signature)),
            Ok(()),
            "{name}"
        );
        // A bit more, a byte less, the other way round: no.
        let other = format!("{signed}x");
        assert!(
            keys.verify(&token(name, &other, signature)).is_err(),
            "{name}"
        );
        let mut shorter = BASE64URL.decode(signature).unwrap();
        shorter.pop();
        let shorter = BASE64URL.encode(shorter);
        assert!(
            keys.verify(&token(name, &signed, &shorter)).is_err(),
            "{name}"
        );
        let zeros = BASE64URL.encode(vec![0; BASE64URL.decode(signature).unwrap().len()]);
        assert!(
            keys.verify(&token(name, &signed, &zeros)).is_err(),
            "{name}"
        );
        assert!(keys.verify(&token(name, &signed, "")).is_err(), "{name}");
    };
    let dbj = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    check("HS256", secret(), hs256, dbj); // RFC 7515 A.1
    check("RS256", rsa(), format!("{}.{CLAIMS}", head("RS256")), RS256); // A.2
    check(
        "ES256",
        p256(),
        format!("{}.{CLAIMS}", head("ES256")),
        ES256,
    ); // A.3
    check(
        "ES512",
        p521(),
        format!("{}.UGF5bG9hZA", head("ES512")),
        ES512,
    ); // A.4
    let example = "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    check(
        "EdDSA",
        ed25519(),
        format!("{}.{example}", head("EdDSA")),
        EDDSA,
    ); // RFC 8037 A.4
}

/// The public key as an HMAC secret (CVE-2016-5431 and its kin).
#[test]
fn a_public_key_is_no_secret() {
    let keys = set(&[rsa()]).unwrap();
    for secret in [MODULUS.as_bytes(), &BASE64URL.decode(MODULUS).unwrap()] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let forged = BASE64URL.encode(hmac::sign(&key, b"a.b"));
        let got = keys.verify(&token("HS256", "a.b", &forged));
        assert_eq!(got, Err(Status::VerificationFail));
    }
}

#[test]
fn keys_are_taken_by_id_and_algorithm() {
    let mut named = rsa();
    named["kid"] = "one".into();
    named["alg"] = "RS256".into();
    let keys = set(&[named]).unwrap();
    let signed = format!("eyJhbGciOiJSUzI1NiJ9.{CLAIMS}");
    let mut good = token("RS256", &signed, RS256);
    assert_eq!(keys.verify(&good), Ok(()));
    good.key_id = "one".into();
    assert_eq!(keys.verify(&good), Ok(()));
    good.key_id = "two".into();
    assert_eq!(keys.verify(&good), Err(Status::JwksKidAlgMismatch));
    let other = token("PS256", &signed, RS256);
    assert_eq!(keys.verify(&other), Err(Status::JwksKidAlgMismatch));
}

#[test]
fn sets_without_a_usable_key_are_told_apart() {
    let check =
        |text: &str, want: Status| assert_eq!(Jwks::parse(text).unwrap_err(), want, "{text}");
    check("", Status::JwksParseError);
    check("[]", Status::JwksParseError);
    check("{}", Status::JwksNoKeys);
    check(r#"{"keys":{}}"#, Status::JwksBadKeys);
    check(r#"{"keys":[]}"#, Status::JwksNoValidKeys);
    check(r#"{"keys":[{"kty":"RSA"}]}"#, Status::JwksNoValidKeys);
    check(
        r#"{"keys":[{"kty":"EC","crv":"P-256","x":"AA","y":1}]}"#,
        Status::JwksNoValidKeys,
    );
    check(
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAA"}]}"#,
        Status::JwksNoValidKeys,
    );
    check(
        r#"{"keys":[{"kty":"oct","k":""}]}"#,
        Status::JwksNoValidKeys,
    );
    check(
        r#"{"keys":[{"kty":"oct","k":"AAAA","alg":"RS256"}]}"#,
        Status::JwksNoValidKeys,
    );
    // One bad key does not spoil the others.
    assert!(set(&[json!({"kty": "x"}), json!(1), rsa()]).is_ok());
}

#[test]
fn certificates_carry_keys() {
    let made = rcgen::generate_simple_self_signed(vec!["a".into()]).unwrap();
    let x5c = base64::engine::general_purpose::STANDARD.encode(made.cert.der());
    assert!(set(&[json!({"kty": "EC", "x5c": [x5c]})]).is_ok());
    // Of another kind than the key says.
    assert!(set(&[json!({"kty": "RSA", "x5c": [x5c]})]).is_err());
    assert!(Jwks::parse(&json!({"id": made.cert.pem()}).to_string()).is_ok());
}

proptest! {
    #[test]
    fn no_set_panics(text in any::<String>(), n in any::<Vec<u8>>(), x in any::<Vec<u8>>()) {
        let _ = Jwks::parse(&text);
        let (n, x) = (BASE64URL.encode(n), BASE64URL.encode(x));
        for key in [
            json!({"kty": "RSA", "n": n, "e": x}),
            json!({"kty": "EC", "crv": "P-256", "x": n, "y": x}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": x}),
            json!({"kty": "oct", "k": x}),
        ] {
            let Ok(keys) = set(&[key]) else { continue };
            for name in ["RS256", "PS512", "ES256", "EdDSA", "HS256"] {
                let _ = keys.verify(&token(name, "a.b", &n));
            }
        }
    }
}
