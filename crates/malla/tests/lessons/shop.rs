//! The shop as its visitors use it: by curl, and by Chromium for what only a page shows.

use std::path::Path;
use std::process::Command;

use malla_testkit::{Answer, Request};
use serde_json::{Value, json};

pub(crate) struct Shop {
    url: String,
}

impl Shop {
    pub(crate) fn new(url: &str) -> Self {
        assert!(url.starts_with("http://127.0.0.1:"), "{url}");
        Self {
            url: url.to_owned(),
        }
    }

    fn get(&self, path: &str) -> Request {
        Request::get(&format!("{}{path}", self.url))
    }

    pub(crate) fn page(&self) -> String {
        self.get("/").send().unwrap().expect(200).unwrap().body
    }

    pub(crate) fn product(&self) -> Result<Value, String> {
        self.get("/product").send()?.expect(200)?.json()
    }

    pub(crate) fn product_version(&self) -> Result<String, String> {
        Ok(self.product()?["info"][0]["Service"]
            .as_str()
            .unwrap_or_default()
            .to_owned())
    }

    pub(crate) fn user(&self, id: u32) -> Result<Value, String> {
        self.get("/user")
            .header("UserID", &id.to_string())
            .send()?
            .expect(200)?
            .json()
    }

    pub(crate) fn cart(&self, user: u32, pid: u32, num: u32) -> Result<Answer, String> {
        let headers = [("UserID", user), ("Pid", pid), ("Num", num)];
        headers
            .iter()
            .fold(self.get("/cart"), |request, (name, value)| {
                request.header(name, &value.to_string())
            })
            .send()
    }

    pub(crate) fn cart_pod(&self, user: u32) -> Result<String, String> {
        let cart = self.cart(user, 1, 1)?.expect(200)?.json()?;
        let infos = cart["Info"].as_array().cloned().unwrap_or_default();
        let own = infos
            .iter()
            .find(|info| info["Service"] == "cart-v1")
            .ok_or("no cart in the answer")?;
        Ok(own["Pod"].as_str().unwrap_or_default().to_owned())
    }

    /// One of product 1.
    pub(crate) fn order_call(&self, cookie: Option<&str>) -> Result<Answer, String> {
        let basket = json!({"Products": [{"Pid": 1, "Num": 1, "Price": 100}]});
        let request = Request::post_json(&format!("{}/order", self.url), &basket);
        match cookie {
            Some(cookie) => request.header("Cookie", cookie).send(),
            None => request.send(),
        }
    }

    pub(crate) fn order_status(&self, cookie: Option<&str>) -> Result<u16, String> {
        Ok(self.order_call(cookie)?.status)
    }

    pub(crate) fn order(&self, cookie: Option<&str>) -> Result<Value, String> {
        self.order_call(cookie)?.expect(200)?.json()
    }

    pub(crate) fn order_version(&self, cookie: Option<&str>) -> Result<String, String> {
        let order = self.order(cookie)?;
        let infos = order["Info"].as_array().cloned().unwrap_or_default();
        let services = infos.iter().filter_map(|info| info["Service"].as_str());
        services
            .into_iter()
            .find(|s| s.starts_with("order"))
            .map(str::to_owned)
            .ok_or("no order in the answer".to_owned())
    }

    /// A visit by Chromium; the script asserts what the page shows.
    pub(crate) fn browse(&self, scenario: &str) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser/shop.cjs");
        let output = Command::new("node")
            .arg(script)
            .args([scenario, &self.url])
            .output()
            .expect("node is installed");
        let said = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success(), "{scenario}: {said}");
    }
}
