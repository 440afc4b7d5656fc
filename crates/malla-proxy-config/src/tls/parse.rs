//! TLS contexts from proto.

use std::path::Path;
use std::sync::Arc;

use super::{
    CertificateSource, CommonTls, DataSource, DownstreamTls, SanKind, SanMatcher, Tickets,
    TlsCertificate, TlsParams, TlsVersion, UpstreamTls, Validation, ValidationContext,
};
use crate::checked::{Cx, Invalid, ignorable, refuse};
use crate::config_source::{ConfigSource, Reference, directory};
use crate::matcher::StringMatcher;
use crate::pb::{core, tls as pb};

impl DownstreamTls {
    pub(crate) fn parse(wire: pb::DownstreamTlsContext, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::downstream_tls_context::SessionTicketKeysType;
        let pb::DownstreamTlsContext {
            common_tls_context,
            require_client_certificate,
            require_sni,
            disable_stateful_session_resumption,
            session_timeout,
            ocsp_staple_policy,
            full_scan_certs_on_sni_mismatch,
            prefer_client_ciphers,
            session_ticket_keys_type,
        } = wire;
        refuse!(cx; ocsp_staple_policy);
        ignorable!(cx; session_timeout, full_scan_certs_on_sni_mismatch, prefer_client_ciphers);
        let tickets = match session_ticket_keys_type {
            None | Some(SessionTicketKeysType::DisableStatelessSessionResumption(false)) => {
                Tickets::Own
            }
            Some(SessionTicketKeysType::DisableStatelessSessionResumption(true)) => Tickets::Off,
            Some(SessionTicketKeysType::SessionTicketKeys(keys)) => {
                Tickets::Keys(cx.field("session_ticket_keys", |cx| ticket_keys(keys, cx))?)
            }
            Some(SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(config)) => {
                Tickets::Sds(cx.field("session_ticket_keys_sds_secret_config", |cx| {
                    sds(config, cx)
                })?)
            }
        };
        let common = cx.required("common_tls_context", common_tls_context)?;
        let common = cx.field("common_tls_context", |cx| CommonTls::parse(common, cx))?;
        if common.certificates.is_empty() {
            return Err(cx.invalid("common_tls_context", "a server needs a certificate"));
        }
        let require_client_certificate =
            require_client_certificate.is_some_and(|value| value.value);
        Ok(Self {
            common,
            require_client_certificate,
            require_sni: require_sni.is_some_and(|value| value.value),
            disable_stateful_resumption: disable_stateful_session_resumption,
            tickets,
        })
    }
}

impl UpstreamTls {
    pub(crate) fn parse(wire: pb::UpstreamTlsContext, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::UpstreamTlsContext {
            common_tls_context,
            sni,
            auto_host_sni,
            auto_sni_san_validation,
            allow_renegotiation,
            max_session_keys,
            enforce_rsa_key_usage,
        } = wire;
        ignorable!(cx; allow_renegotiation, max_session_keys, enforce_rsa_key_usage);
        let common = common_tls_context.unwrap_or_default();
        Ok(Self {
            common: cx.field("common_tls_context", |cx| CommonTls::parse(common, cx))?,
            sni: (!sni.is_empty()).then_some(sni),
            auto_host_sni,
            auto_sni_san_validation,
        })
    }
}

impl CommonTls {
    fn parse(wire: pb::CommonTlsContext, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::CommonTlsContext {
            tls_params,
            tls_certificates,
            tls_certificate_sds_secret_configs,
            tls_certificate_provider_instance,
            custom_tls_certificate_selector,
            tls_certificate_certificate_provider,
            tls_certificate_certificate_provider_instance,
            alpn_protocols,
            custom_handshaker,
            key_log,
            validation_context_type,
        } = wire;
        refuse!(cx; tls_certificate_provider_instance, custom_tls_certificate_selector,
            tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance, custom_handshaker,
            key_log);
        let mut certificates: Vec<CertificateSource> =
            cx.each("tls_certificates", tls_certificates, |wire, cx| {
                TlsCertificate::parse(wire, cx)
                    .map(|certificate| CertificateSource::Static(Arc::new(certificate)))
            })?;
        let sds: Vec<_> = cx.each(
            "tls_certificate_sds_secret_configs",
            tls_certificate_sds_secret_configs,
            |wire, cx| sds(wire, cx).map(CertificateSource::Sds),
        )?;
        certificates.extend(sds);
        if let Some(long) = alpn_protocols
            .iter()
            .find(|name| name.is_empty() || name.len() > 255)
        {
            return Err(cx.invalid(
                "alpn_protocols",
                format!("`{long}` must have 1 to 255 bytes"),
            ));
        }
        Ok(Self {
            params: cx.field("tls_params", |cx| {
                TlsParams::parse(tls_params.unwrap_or_default(), cx)
            })?,
            certificates,
            validation: Validation::parse(validation_context_type, cx)?,
            alpn: alpn_protocols,
        })
    }
}

impl TlsParams {
    fn parse(wire: pb::TlsParameters, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::tls_parameters::TlsProtocol;
        let pb::TlsParameters {
            tls_minimum_protocol_version,
            tls_maximum_protocol_version,
            cipher_suites,
            ecdh_curves,
            signature_algorithms,
            compliance_policies,
        } = wire;
        refuse!(cx; compliance_policies);
        ignorable!(cx; signature_algorithms);
        let old = |field: &str| {
            cx.invalid(
                field,
                "TLS 1.0 and 1.1 are not supported by this proxy; use TLSv1_2",
            )
        };
        let min =
            match cx.enumeration("tls_minimum_protocol_version", tls_minimum_protocol_version)? {
                TlsProtocol::TlsAuto | TlsProtocol::TlSv12 => TlsVersion::V12,
                TlsProtocol::TlSv13 => TlsVersion::V13,
                TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => {
                    return Err(old("tls_minimum_protocol_version"));
                }
            };
        let max =
            match cx.enumeration("tls_maximum_protocol_version", tls_maximum_protocol_version)? {
                TlsProtocol::TlsAuto | TlsProtocol::TlSv13 => TlsVersion::V13,
                TlsProtocol::TlSv12 => TlsVersion::V12,
                TlsProtocol::TlSv10 | TlsProtocol::TlSv11 => {
                    return Err(old("tls_maximum_protocol_version"));
                }
            };
        if min > max {
            return Err(cx.invalid(
                "tls_minimum_protocol_version",
                "is above tls_maximum_protocol_version",
            ));
        }
        Ok(Self {
            min,
            max,
            cipher_suites,
            ecdh_curves,
        })
    }
}

impl Validation {
    fn parse(
        wire: Option<pb::common_tls_context::ValidationContextType>,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::common_tls_context::ValidationContextType;
        let fixed = |field: &str, context, cx: &mut Cx| {
            cx.field(field, |cx| ValidationContext::parse(context, cx))
                .map(|context| Some(Arc::new(context)))
        };
        match wire {
            None => Ok(Self::default()),
            Some(ValidationContextType::ValidationContext(context))
                if !context_proves(&context) =>
            {
                Err(cx.invalid(
                    "validation_context",
                    "names are demanded without trusted_ca, so anybody could have them; set trusted_ca",
                ))
            }
            Some(ValidationContextType::ValidationContext(context)) => Ok(Self {
                fixed: fixed("validation_context", context, cx)?,
                sds: None,
            }),
            Some(ValidationContextType::ValidationContextSdsSecretConfig(config)) => {
                let reference = cx.field("validation_context_sds_secret_config", |cx| {
                    sds(config, cx)
                })?;
                Ok(Self {
                    fixed: None,
                    sds: Some(reference),
                })
            }
            Some(ValidationContextType::CombinedValidationContext(combined)) => {
                cx.field("combined_validation_context", |cx| {
                    let pb::common_tls_context::CombinedCertificateValidationContext {
                        default_validation_context,
                        validation_context_sds_secret_config,
                        validation_context_certificate_provider,
                        validation_context_certificate_provider_instance,
                    } = combined;
                    refuse!(cx; validation_context_certificate_provider,
                        validation_context_certificate_provider_instance);
                    let context = default_validation_context.unwrap_or_default();
                    let config = cx.required(
                        "validation_context_sds_secret_config",
                        validation_context_sds_secret_config,
                    )?;
                    Ok(Self {
                        fixed: fixed("default_validation_context", context, cx)?,
                        sds: Some(cx.field("validation_context_sds_secret_config", |cx| {
                            sds(config, cx)
                        })?),
                    })
                })
            }
            Some(ValidationContextType::ValidationContextCertificateProvider(_)) => Err(cx
                .invalid(
                    "validation_context_certificate_provider",
                    "not supported by this proxy",
                )),
            Some(ValidationContextType::ValidationContextCertificateProviderInstance(_)) => Err(cx
                .invalid(
                    "validation_context_certificate_provider_instance",
                    "not supported by this proxy",
                )),
        }
    }
}

impl TlsCertificate {
    pub(crate) fn parse(wire: pb::TlsCertificate, cx: &mut Cx) -> Result<Self, Invalid> {
        let pb::TlsCertificate {
            certificate_chain,
            private_key,
            pkcs12,
            watched_directory,
            private_key_provider,
            password,
            ocsp_staple,
            signed_certificate_timestamp,
            tls_params,
        } = wire;
        refuse!(cx; pkcs12, private_key_provider, password, ocsp_staple, tls_params);
        ignorable!(cx; signed_certificate_timestamp);
        let chain = cx.required("certificate_chain", certificate_chain)?;
        let key = cx.required("private_key", private_key)?;
        Ok(Self {
            chain: cx.field("certificate_chain", |cx| DataSource::parse(chain, cx))?,
            key: cx.field("private_key", |cx| DataSource::parse(key, cx))?,
            watched_directory: directory(watched_directory, cx)?,
        })
    }
}

/// Names count only with a CA that vouches for them, or a pin.
fn context_proves(context: &pb::CertificateValidationContext) -> bool {
    let names = &context.match_typed_subject_alt_names;
    #[expect(deprecated, reason = "Envoy still reads it")]
    let untyped = &context.match_subject_alt_names;
    (names.is_empty() && untyped.is_empty())
        || context.trusted_ca.is_some()
        || context.system_root_certs.is_some()
        || !context.verify_certificate_spki.is_empty()
        || !context.verify_certificate_hash.is_empty()
}

impl ValidationContext {
    pub(crate) fn parse(
        wire: pb::CertificateValidationContext,
        cx: &mut Cx,
    ) -> Result<Self, Invalid> {
        use pb::certificate_validation_context::TrustChainVerification;
        let pb::CertificateValidationContext {
            trusted_ca,
            ca_certificate_provider_instance,
            system_root_certs,
            watched_directory,
            verify_certificate_spki,
            verify_certificate_hash,
            match_typed_subject_alt_names,
            match_subject_alt_names,
            require_signed_certificate_timestamp,
            crl,
            allow_expired_certificate,
            trust_chain_verification,
            custom_validator_config,
            only_verify_leaf_cert_crl,
            max_verify_depth,
            suppress_client_ca_list,
        } = wire;
        refuse!(cx; ca_certificate_provider_instance, require_signed_certificate_timestamp, custom_validator_config);
        ignorable!(cx; max_verify_depth, suppress_client_ca_list);
        let mut san: Vec<SanMatcher> = cx.each(
            "match_typed_subject_alt_names",
            match_typed_subject_alt_names,
            SanMatcher::parse,
        )?;
        let untyped: Vec<_> = cx.each(
            "match_subject_alt_names",
            match_subject_alt_names,
            |wire, cx| {
                Ok(SanMatcher {
                    kind: SanKind::Any,
                    matcher: StringMatcher::parse(wire, cx)?,
                })
            },
        )?;
        san.extend(untyped);
        let trust: TrustChainVerification =
            cx.enumeration("trust_chain_verification", trust_chain_verification)?;
        Ok(Self {
            trusted_ca: DataSource::optional("trusted_ca", trusted_ca, cx)?,
            system_roots: system_root_certs.is_some(),
            san,
            spki_pins: verify_certificate_spki,
            hash_pins: verify_certificate_hash
                .into_iter()
                .map(|pin| pin.replace(':', "").to_ascii_lowercase())
                .collect(),
            crl: DataSource::optional("crl", crl, cx)?,
            crl_leaf_only: only_verify_leaf_cert_crl,
            allow_expired: allow_expired_certificate,
            accept_untrusted: trust == TrustChainVerification::AcceptUntrusted,
            watched_directory: directory(watched_directory, cx)?,
        })
    }
}

impl SanMatcher {
    fn parse(wire: pb::SubjectAltNameMatcher, cx: &mut Cx) -> Result<Self, Invalid> {
        use pb::subject_alt_name_matcher::SanType;
        let pb::SubjectAltNameMatcher {
            san_type,
            matcher,
            oid,
        } = wire;
        refuse!(cx; oid);
        let kind = match cx.enumeration("san_type", san_type)? {
            SanType::Dns => SanKind::Dns,
            SanType::Uri => SanKind::Uri,
            SanType::Email => SanKind::Email,
            SanType::IpAddress => SanKind::Ip,
            SanType::Unspecified => return Err(cx.invalid("san_type", "is required")),
            SanType::OtherName => {
                return Err(cx.invalid("san_type", "OTHER_NAME is not supported by this proxy"));
            }
        };
        let matcher = cx.required("matcher", matcher)?;
        Ok(Self {
            kind,
            matcher: cx.field("matcher", |cx| StringMatcher::parse(matcher, cx))?,
        })
    }
}

impl DataSource {
    pub(crate) fn parse(wire: core::DataSource, cx: &mut Cx) -> Result<Self, Invalid> {
        use core::data_source::Specifier;
        let core::DataSource {
            watched_directory,
            specifier,
        } = wire;
        ignorable!(cx; watched_directory);
        Ok(match cx.required("specifier", specifier)? {
            Specifier::Filename(path) => Self::File(Arc::from(Path::new(&path))),
            Specifier::InlineBytes(bytes) => Self::Inline(bytes.into()),
            Specifier::InlineString(text) => Self::Inline(text.into()),
            Specifier::EnvironmentVariable(name) => Self::Env(name.into()),
        })
    }

    fn optional(
        field: &str,
        wire: Option<core::DataSource>,
        cx: &mut Cx,
    ) -> Result<Option<Self>, Invalid> {
        wire.map(|wire| cx.field(field, |cx| Self::parse(wire, cx)))
            .transpose()
    }
}

/// Keys of session tickets: `TlsSessionTicketKeys`.
pub(crate) fn ticket_keys(
    wire: pb::TlsSessionTicketKeys,
    cx: &mut Cx,
) -> Result<Arc<[DataSource]>, Invalid> {
    let keys: Vec<DataSource> = cx.each("keys", wire.keys, DataSource::parse)?;
    if keys.is_empty() {
        return Err(cx.invalid("keys", "at least one is required"));
    }
    Ok(keys.into())
}

/// A secret by name; without a source it is one of the bootstrap's.
fn sds(wire: pb::SdsSecretConfig, cx: &mut Cx) -> Result<Reference, Invalid> {
    let pb::SdsSecretConfig { name, sds_config } = wire;
    if name.is_empty() {
        return Err(cx.invalid("name", "is required"));
    }
    let source = match sds_config {
        None => ConfigSource::bootstrap(),
        Some(wire) => cx.field("sds_config", |cx| ConfigSource::parse(wire, cx))?,
    };
    Ok(Reference {
        name: name.into(),
        source,
    })
}
