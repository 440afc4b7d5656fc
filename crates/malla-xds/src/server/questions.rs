//! Requests that are questions: answered once each, and nothing is subscribed to.

use malla_xds_proto::discovery::{DeltaDiscoveryResponse, DiscoveryResponse, Resource};
use tonic::Status;

use super::source::{Answer, NodeHandle};
use super::stream::Input;
use crate::message::{ServerMessage, Variant};

/// What answers' nonces start with; other nonces are those of pushes.
const NONCE: &str = "answer-";

/// Counts one stream's answers.
#[derive(Debug, Default)]
pub(super) struct Questions {
    answered: u64,
}

impl Questions {
    /// `None` when the input is no question; the answer, if one is due, when it is.
    pub(super) fn take(
        &mut self,
        input: &Input,
        node: &dyn NodeHandle,
        version: &str,
    ) -> Result<Option<Option<ServerMessage>>, Status> {
        let Input::Request(request) = input else {
            return Ok(None);
        };
        let type_url = request.type_url();
        let Some(answers) = node.answer(type_url, request.names()) else {
            return Ok(None);
        };
        // That an answer arrived is no new question. (`istioctl` makes nonces up: only ours are answers.)
        let answered = request.response_nonce().strip_prefix(NONCE);
        let answered = answered.and_then(|number| number.parse::<u64>().ok());
        if answered.is_some_and(|number| (1..=self.answered).contains(&number)) {
            return Ok(Some(None));
        }
        let answers = answers?;
        self.answered += 1;
        let nonce = format!("{NONCE}{}", self.answered);
        let message = respond(request.variant(), type_url, version, nonce, answers);
        Ok(Some(Some(message)))
    }
}

fn respond(
    variant: Variant,
    type_url: &str,
    version: &str,
    nonce: String,
    answers: Vec<Answer>,
) -> ServerMessage {
    let type_url = type_url.to_owned();
    match variant {
        Variant::Delta => ServerMessage::Delta(DeltaDiscoveryResponse {
            type_url,
            nonce,
            system_version_info: version.to_owned(),
            resources: answers
                .into_iter()
                .map(|answer| Resource {
                    name: answer.name,
                    version: version.to_owned(),
                    resource: Some(answer.body),
                    ..Resource::default()
                })
                .collect(),
            ..DeltaDiscoveryResponse::default()
        }),
        Variant::Sotw => ServerMessage::Sotw(DiscoveryResponse {
            type_url,
            nonce,
            version_info: version.to_owned(),
            resources: answers.into_iter().map(|answer| answer.body).collect(),
            ..DiscoveryResponse::default()
        }),
    }
}
