//! Messages: codes, levels, and how they are printed.
//!
//! `IST` codes mean what they mean in Istio and keep its wording, so that scripts and eyes that
//! know `istioctl analyze` find their way; `MAL` codes are our own. All are listed in
//! `docs/reference/analyzer.md`.

use std::cmp::Ordering;
use std::fmt;

use crate::report::Problem;

/// How bad a message is; the worst comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warning,
    Info,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "Error",
            Self::Warning => "Warning",
            Self::Info => "Info",
        })
    }
}

macro_rules! codes {
    ($($name:ident = $code:literal $level:ident,)*) => {
        /// What a message is about.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code { $($name,)* }

        impl Code {
            /// All codes, in order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// `IST0101`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// `ReferencedResourceNotFound`.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// How bad it is.
            #[must_use]
            pub fn level(self) -> Level {
                match self { $(Self::$name => Level::$level,)* }
            }
        }
    };
}

codes! {
    Deprecated = "IST0002" Warning,
    ReferencedResourceNotFound = "IST0101" Error,
    NamespaceNotInjected = "IST0102" Info,
    PodMissingProxy = "IST0103" Warning,
    SchemaValidationError = "IST0106" Error,
    UnknownAnnotation = "IST0108" Warning,
    ConflictingMeshGatewayVirtualServiceHosts = "IST0109" Error,
    VirtualServiceDestinationPortSelectorRequired = "IST0112" Error,
    DeploymentAssociatedToMultipleServices = "IST0116" Warning,
    PortNameIsNotUnderNamingConvention = "IST0118" Info,
    NamespaceMultipleInjectionLabels = "IST0123" Warning,
    NoMatchingWorkloadsFound = "IST0127" Warning,
    VirtualServiceUnreachableRule = "IST0130" Warning,
    VirtualServiceIneffectiveMatch = "IST0131" Info,
    VirtualServiceHostNotFoundInGateway = "IST0132" Warning,
    SchemaWarning = "IST0133" Warning,
    ServiceEntryAddressesRequired = "IST0134" Warning,
    DeploymentConflictingPorts = "IST0137" Warning,
    ConflictingGateways = "IST0145" Error,
    JwtClaimBasedRoutingWithoutRequestAuthN = "IST0149" Error,
    InvalidGatewayCredential = "IST0161" Error,
    GatewayPortNotDefinedOnService = "IST0162" Warning,
    IneffectivePolicy = "IST0167" Warning,
    DestinationRuleSubsetNotSelectPods = "IST0173" Error,
    UnknownDestinationRuleHost = "IST0174" Warning,
    FieldNotHonoured = "MAL0001" Warning,
    KindNotHonoured = "MAL0002" Warning,
    UnknownRevision = "MAL0003" Warning,
    VirtualServiceIgnored = "MAL0004" Warning,
    VirtualServiceHostUnknown = "MAL0005" Warning,
    CircuitBreakerQueuesWithoutLimit = "MAL0006" Info,
    LocalityFailoverInert = "MAL0007" Warning,
    LoadBalancingInertOnHeadless = "MAL0008" Warning,
    AffinityBrokenBySplit = "MAL0009" Warning,
    TlsSettingsBreakStrictMtls = "MAL0010" Warning,
}

/// Where an object was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    pub file: String,
    /// First line of the object's document, from 1.
    pub line: usize,
}

/// The object a message is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subject {
    pub kind: String,
    /// Empty for cluster-wide kinds.
    pub namespace: String,
    pub name: String,
    pub source: Option<Source>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)?;
        match &self.source {
            Some(source) => write!(f, " {}:{}", source.file, source.line),
            None => Ok(()),
        }
    }
}

/// One message of the analyzer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub code: Code,
    pub subject: Subject,
    /// The field it is about, where it is about one.
    pub field: Option<String>,
    pub text: String,
}

impl Message {
    #[must_use]
    pub fn level(&self) -> Level {
        self.code.level()
    }

    /// From a finding of validation; `fallback` is the code of findings without their own.
    pub(super) fn of(problem: &Problem, fallback: Code, subject: &Subject) -> Self {
        let code = problem.code.unwrap_or(fallback);
        let text = match code {
            Code::SchemaValidationError => format!("Schema validation error: {problem}"),
            Code::SchemaWarning => format!("Schema validation warning: {problem}"),
            Code::Deprecated => format!("Deprecated: {problem}"),
            _ => problem.text(),
        };
        Self {
            code,
            subject: subject.clone(),
            field: Some(problem.path.clone()),
            text,
        }
    }

    /// The worst first, then by object, code and text.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        let key = |m: &Self| (m.level(), m.subject.clone(), m.code, m.text.clone());
        key(self).cmp(&key(other))
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (level, code) = (self.level(), self.code.as_str());
        write!(f, "{level} [{code}] ({}) {}", self.subject, self.text)
    }
}
