//! HTTPS at the ingress gateway with certificates from Secrets, by curl: what is missing is said, and
//! what changes is served at once.

use std::fs;
use std::path::PathBuf;

use malla_testkit::{Demo, Request, eventually};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use super::SOON;

const HOST: &str = "shop.example.com";
const MUTUAL_HOST: &str = "bank.example.com";

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A certificate and its key, in PEM.
struct Pair {
    certificate: String,
    key: String,
}

fn authority(name: &str) -> Issuer {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(authority: &Issuer, names: &[&str]) -> Pair {
    let key = KeyPair::generate().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names.clone()).unwrap();
    // A certificate of its issuer's name would be taken for a self-signed one.
    params
        .distinguished_name
        .push(DnType::CommonName, names.concat());
    let certificate = params.signed_by(&key, authority).unwrap();
    Pair {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
    }
}

struct Https<'a> {
    demo: &'a Demo,
    folder: PathBuf,
}

impl Https<'_> {
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn apply(&self, object: &Value) {
        let file = self.file("object.json", &object.to_string());
        drop(self.demo.kubectl_ok(&["apply", "-f", &file]));
    }

    fn secret(&self, name: &str, data: &Value) {
        self.apply(&json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "istio-system"}, "stringData": data,
        }));
    }

    /// A request to `host` that trusts `roots`; with a client's certificate or without one.
    fn call(&self, host: &str, roots: &Issuer, client: Option<&Pair>) -> Result<String, String> {
        let service = self.demo.kubectl_json(&[
            "-n",
            "istio-system",
            "get",
            "service",
            "istio-ingressgateway",
        ]);
        let published = malla_local::published(&service);
        let at = published.get(&443).ok_or("port 443 is not open")?;
        let mut request = Request::get(&format!("https://{host}:{}/", at.port()))
            .option("--connect-to", &format!("::{}:{}", at.ip(), at.port()))
            .option("--cacert", &self.file("roots.pem", &roots.pem()));
        if let Some(client) = client {
            request = request
                .option("--cert", &self.file("client.pem", &client.certificate))
                .option("--key", &self.file("client.key", &client.key));
        }
        Ok(request.send()?.expect(200)?.body)
    }

    /// What the Gateway's status says of its Secrets, as `eventually` wants to hear it.
    fn says(&self, part: &str) -> Result<(), String> {
        let gateway =
            self.demo
                .kubectl_json(&["-n", "base", "get", "gateways.networking.istio.io", "https"]);
        let said = gateway["status"]["validationMessages"].to_string();
        if said.contains(part) {
            Ok(())
        } else {
            Err(said)
        }
    }
}

fn gateway() -> Value {
    let server = |name: &str, host: &str, tls: Value| json!({"port": {"number": 443, "name": name, "protocol": "HTTPS"}, "hosts": [host], "tls": tls});
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "https", "namespace": "base"},
        "spec": {"selector": {"istio": "ingressgateway"}, "servers": [
            server("https", HOST, json!({"mode": "SIMPLE", "credentialName": "shop-cert"})),
            server("mutual", MUTUAL_HOST, json!({"mode": "MUTUAL", "credentialName": "bank-cert"})),
        ]},
    })
}

fn rule() -> Value {
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "https", "namespace": "base"},
        "spec": {"hosts": [HOST, MUTUAL_HOST], "gateways": ["https"], "http": [
            {"directResponse": {"status": 200, "body": {"string": "within TLS"}}},
        ]},
    })
}

pub(crate) fn comes_from_secrets(demo: &Demo) {
    let folder = std::env::temp_dir().join(format!("malla-https-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let https = Https { demo, folder };
    let (first, second) = (authority("first"), authority("second"));
    let tls = |pair: &Pair| json!({"tls.crt": pair.certificate, "tls.key": pair.key});

    https.apply(&gateway());
    https.apply(&rule());
    eventually("the Gateway says what it lacks", SOON, || {
        https.says("there is no Secret istio-system/shop-cert")
    });
    let old = issue(&first, &[HOST]);
    https.secret("shop-cert", &tls(&old));
    eventually("the certificate is served", SOON, || {
        https.call(HOST, &first, None)
    });
    eventually("nothing is said of what is there", SOON, || {
        match https.says("shop-cert") {
            Ok(()) => Err("it is still said to be missing".to_owned()),
            Err(_) => Ok(()),
        }
    });
    https.secret("shop-cert", &tls(&issue(&second, &[HOST])));
    eventually("the new certificate is served", SOON, || {
        https.call(HOST, &second, None)
    });
    // A broken one changes nothing but the status.
    https.secret(
        "shop-cert",
        &json!({"tls.crt": "-----BEGIN", "tls.key": "x"}),
    );
    eventually("the Gateway says what is broken", SOON, || {
        https.says("Secret istio-system/shop-cert: the certificate chain")
    });
    assert_eq!(https.call(HOST, &second, None).unwrap(), "within TLS");

    https.secret("bank-cert", &tls(&issue(&first, &[MUTUAL_HOST])));
    https.secret("bank-cert-cacert", &json!({"ca.crt": second.pem()}));
    let client = issue(&second, &["client"]);
    let stranger = issue(&first, &["stranger"]);
    eventually("a client with a certificate is served", SOON, || {
        https.call(MUTUAL_HOST, &first, Some(&client))
    });
    for other in [None, Some(&stranger)] {
        let refused = https.call(MUTUAL_HOST, &first, other);
        assert!(refused.is_err(), "{refused:?}");
    }
    for (kind, namespace, name) in [
        ("gateways.networking.istio.io", "base", "https"),
        ("virtualservice", "base", "https"),
        ("secret", "istio-system", "shop-cert"),
        ("secret", "istio-system", "bank-cert"),
        ("secret", "istio-system", "bank-cert-cacert"),
    ] {
        drop(demo.kubectl_ok(&["-n", namespace, "delete", kind, name]));
    }
    fs::remove_dir_all(&https.folder).unwrap();
}
