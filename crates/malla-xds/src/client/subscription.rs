//! What is wanted of one type, what has been asked for on this stream, and what is held.

use std::collections::{BTreeMap, HashMap};

use malla_xds_proto::RpcStatus;
use malla_xds_proto::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::handler::Interest;
use super::status::TypeStatus;
use crate::message::{ClientMessage, Variant};
use crate::order;
use crate::resource::{Name, TypeUrl, Version};

const WILDCARD: &str = "*";

/// The answer to a response, waiting to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) nonce: String,
    pub(super) error: Option<RpcStatus>,
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) type_url: TypeUrl,
    pub(super) interest: Interest,
    /// What the server knows of `interest`, on this stream.
    announced: Option<Interest>,
    /// Names have been sent on this stream, so an empty list no longer means everything.
    explicit: bool,
    /// Versions of what is held; survives reconnects.
    pub(super) held: BTreeMap<Name, Version>,
    /// Last nonce of this stream.
    nonce: String,
    /// Version of the last response accepted as a whole; survives reconnects.
    pub(super) version: String,
    pub(super) answer: Option<Answer>,
    pub(super) status: TypeStatus,
}

impl Subscription {
    pub(super) fn new(type_url: TypeUrl) -> Self {
        Self {
            type_url,
            interest: Interest::default(),
            announced: None,
            explicit: false,
            held: BTreeMap::new(),
            nonce: String::new(),
            version: String::new(),
            answer: None,
            status: TypeStatus::default(),
        }
    }

    pub(super) fn order(&self) -> (u8, &TypeUrl) {
        (order::rank(&self.type_url), &self.type_url)
    }

    pub(super) fn set_interest(&mut self, interest: Interest) {
        self.held.retain(|name, _| interest.covers(name));
        self.status.rejected.retain(|name, _| interest.covers(name));
        self.interest = interest;
    }

    /// A new stream knows nothing of what was said on the old one.
    pub(super) fn stream_opened(&mut self) {
        self.announced = None;
        self.explicit = false;
        self.nonce.clear();
        self.answer = None;
    }

    /// Whether the type has been asked for on this stream.
    pub(super) fn is_announced(&self) -> bool {
        self.announced.is_some()
    }

    pub(super) fn received(&mut self, nonce: &str) {
        nonce.clone_into(&mut self.nonce);
    }

    /// The next request of the type, when one is due.
    pub(super) fn request(&mut self, variant: Variant) -> Option<ClientMessage> {
        let known = self.announced.as_ref();
        let changed = match known {
            Some(announced) => *announced != self.interest,
            None => !self.interest.is_empty(),
        };
        if !changed && self.answer.is_none() {
            return None;
        }
        let message = match variant {
            Variant::Delta => ClientMessage::Delta(Box::new(self.delta_request())),
            Variant::Sotw => ClientMessage::Sotw(Box::new(self.sotw_request())),
        };
        self.announced = Some(self.interest.clone());
        Some(message)
    }

    fn delta_request(&mut self) -> DeltaDiscoveryRequest {
        let mut request = DeltaDiscoveryRequest {
            type_url: self.type_url.as_str().to_owned(),
            ..DeltaDiscoveryRequest::default()
        };
        if let Some(answer) = self.answer.take() {
            request.response_nonce = answer.nonce;
            request.error_detail = answer.error;
        }
        let wanted = &self.interest;
        match &self.announced {
            None => {
                request.resource_names_subscribe = self.full_list();
                let held = self.held.iter();
                let versions: HashMap<String, String> = held
                    .map(|(name, version)| (name.to_string(), version.to_string()))
                    .collect();
                request.initial_resource_versions = versions;
            }
            Some(announced) => {
                let list = |names: &mut Vec<String>, from: &Interest, without: &Interest| {
                    if from.wildcard && !without.wildcard {
                        names.push(WILDCARD.to_owned());
                    }
                    let difference = from.names.difference(&without.names);
                    names.extend(difference.map(ToString::to_string));
                };
                list(&mut request.resource_names_subscribe, wanted, announced);
                list(&mut request.resource_names_unsubscribe, announced, wanted);
            }
        }
        self.explicit |= !request.resource_names_subscribe.is_empty();
        request
    }

    fn sotw_request(&mut self) -> DiscoveryRequest {
        let error_detail = self.answer.take().and_then(|answer| answer.error);
        let resource_names = self.full_list();
        self.explicit |= !resource_names.is_empty();
        DiscoveryRequest {
            version_info: self.version.clone(),
            type_url: self.type_url.as_str().to_owned(),
            response_nonce: self.nonce.clone(),
            resource_names,
            error_detail,
            ..DiscoveryRequest::default()
        }
    }

    /// All names, in the spelling that old servers understand where that is possible: the wildcard
    /// alone is an empty list, unless names have been sent before.
    fn full_list(&self) -> Vec<String> {
        let Interest { wildcard, names } = &self.interest;
        if *wildcard && names.is_empty() && !self.explicit {
            return Vec::new();
        }
        let wildcard = wildcard.then(|| WILDCARD.to_owned());
        wildcard
            .into_iter()
            .chain(names.iter().map(ToString::to_string))
            .collect()
    }
}
