//! Query parameters, with the meaning of those all verbs share.

use std::time::Duration;

use malla_apimachinery::kind::FieldValidation;

use super::path::percent_decode;
use crate::error::ApiError;

/// The parameters in order; those that do not decode are dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| percent_decode(&text.replace('+', " "));
            Some((decode(name)?, decode(value)?))
        });
        Self(pairs.collect())
    }

    /// The first value, or "".
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    /// All values.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.iter().filter(move |(key, _)| key == name);
        pairs.map(|(_, value)| value.as_str())
    }

    /// `true`, `1`, or present without a value.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.0.iter().any(|(key, value)| {
            key == name
                && !matches!(
                    value.as_str(),
                    "false" | "0" | "False" | "FALSE" | "f" | "F"
                )
        })
    }

    /// A number, if there is one.
    pub(super) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.get(name) {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "{name}: Invalid value: {text:?}: must be a whole number"
                ))
            }),
        }
    }

    /// `dryRun=All`.
    pub(super) fn dry_run(&self) -> Result<bool, ApiError> {
        let mut found = false;
        for value in self.all("dryRun") {
            if value != "All" {
                return Err(ApiError::bad_request(format!(
                    "dryRun: Unsupported value: {value:?}: supported values: \"All\""
                )));
            }
            found = true;
        }
        Ok(found)
    }

    /// `fieldValidation`.
    pub(super) fn field_validation(&self) -> Result<FieldValidation, ApiError> {
        let word = self.get("fieldValidation");
        FieldValidation::parse(word).ok_or_else(|| {
            ApiError::bad_request(format!(
                "fieldValidation: Unsupported value: {word:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))
        })
    }

    /// `resourceVersion`; `None` when absent.
    pub(super) fn resource_version(&self) -> Result<Option<u64>, ApiError> {
        match self.get("resourceVersion") {
            "" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                ApiError::bad_request(format!(
                    "resourceVersion: Invalid value: {text:?}: must be a number"
                ))
            }),
        }
    }

    /// `timeoutSeconds`.
    pub(super) fn timeout(&self) -> Result<Option<Duration>, ApiError> {
        let seconds: Option<u64> = self.number("timeoutSeconds")?;
        Ok(seconds
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn values_are_decoded() {
        let query = Query::parse("labelSelector=a%3Db&command=ls&command=-l+x&watch&follow=false");
        assert_eq!(query.get("labelSelector"), "a=b");
        assert_eq!(query.all("command").collect::<Vec<_>>(), ["ls", "-l x"]);
        assert!(query.flag("watch") && !query.flag("follow") && !query.flag("stdin"));
        assert!(Query::parse("limit=x").number::<usize>("limit").is_err());
        assert!(Query::parse("dryRun=Some").dry_run().is_err());
    }
}
