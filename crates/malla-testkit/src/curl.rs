//! Requests by the real curl.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

/// One request, built up and then sent.
#[derive(Debug, Clone)]
pub struct Request {
    url: String,
    arguments: Vec<String>,
}

/// What came back.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    pub took: Duration,
    /// Lines such as `content-type: text/html`.
    pub headers: String,
}

impl Request {
    #[must_use]
    pub fn get(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            arguments: Vec::new(),
        }
    }

    #[must_use]
    pub fn post_json(url: &str, body: &Value) -> Self {
        let mut request = Self::get(url).header("Content-Type", "application/json");
        request
            .arguments
            .extend(["--data".to_owned(), body.to_string()]);
        request
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.arguments
            .extend(["--header".to_owned(), format!("{name}: {value}")]);
        self
    }

    /// A further option of curl, such as `--cacert`.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.arguments.extend([name.to_owned(), value.to_owned()]);
        self
    }

    /// # Errors
    /// curl's exit code and message, when no HTTP answer came.
    pub fn send(&self) -> Result<Answer, String> {
        let started = Instant::now();
        let output = Command::new("curl")
            .args([
                "--silent",
                "--show-error",
                "--include",
                "--max-time",
                "30",
                "--write-out",
                "\n%{http_code}",
            ])
            .args(&self.arguments)
            .arg(&self.url)
            .output()
            .map_err(|error| format!("run curl: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "curl {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (text, status) = text.rsplit_once('\n').ok_or("curl printed nothing")?;
        let mut rest = text;
        // Interim answers (100 Continue) come first.
        let (headers, body) = loop {
            let (headers, body) = rest.split_once("\r\n\r\n").ok_or("no end of headers")?;
            if !headers.starts_with("HTTP/1.1 1") {
                break (headers, body);
            }
            rest = body;
        };
        Ok(Answer {
            status: status
                .parse()
                .map_err(|_| format!("no status in {status:?}"))?,
            body: body.to_owned(),
            took: started.elapsed(),
            headers: headers.to_ascii_lowercase(),
        })
    }
}

impl Answer {
    /// # Errors
    /// When the status is another, with the body.
    pub fn expect(self, status: u16) -> Result<Self, String> {
        if self.status == status {
            Ok(self)
        } else {
            Err(format!(
                "{} instead of {status}: {}",
                self.status, self.body
            ))
        }
    }

    /// # Errors
    /// When the body is no JSON.
    pub fn json(&self) -> Result<Value, String> {
        serde_json::from_str(&self.body).map_err(|error| format!("{error}: {}", self.body))
    }
}
