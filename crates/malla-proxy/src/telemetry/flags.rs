//! Response flags: Envoy's short words for what went wrong.

use smallvec::SmallVec;

/// Declares the flags: variant, short and long form.
macro_rules! flags {
    ($($name:ident = $short:literal $long:literal),+ $(,)?) => {
        /// One response flag.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u8)]
        pub enum Flag {
            $(#[doc = concat!("`", $short, "`.")] $name),+
        }

        impl Flag {
            /// All of them, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// `%RESPONSE_FLAGS%`.
            pub fn short(self) -> &'static str {
                match self { $(Self::$name => $short),+ }
            }

            /// The flag of a short form.
            pub fn from_short(word: &str) -> Option<Self> {
                match word { $($short => Some(Self::$name),)+ _ => None }
            }

            /// `%RESPONSE_FLAGS_LONG%`.
            pub fn long(self) -> &'static str {
                match self { $(Self::$name => $long),+ }
            }
        }
    };
}

flags! {
    NoHealthyUpstream = "UH" "NoHealthyUpstream",
    UpstreamRequestTimeout = "UT" "UpstreamRequestTimeout",
    LocalReset = "LR" "LocalReset",
    UpstreamRemoteReset = "UR" "UpstreamRemoteReset",
    UpstreamConnectionFailure = "UF" "UpstreamConnectionFailure",
    UpstreamConnectionTermination = "UC" "UpstreamConnectionTermination",
    UpstreamOverflow = "UO" "UpstreamOverflow",
    NoRouteFound = "NR" "NoRouteFound",
    DelayInjected = "DI" "DelayInjected",
    FaultInjected = "FI" "FaultInjected",
    DownstreamConnectionTermination = "DC" "DownstreamConnectionTermination",
    UpstreamRetryLimitExceeded = "URX" "UpstreamRetryLimitExceeded",
    StreamIdleTimeout = "SI" "StreamIdleTimeout",
    DownstreamProtocolError = "DPE" "DownstreamProtocolError",
    UpstreamProtocolError = "UPE" "UpstreamProtocolError",
    UpstreamMaxStreamDurationReached = "UMSDR" "UpstreamMaxStreamDurationReached",
    DurationTimeout = "DT" "DurationTimeout",
    NoClusterFound = "NC" "NoClusterFound",
    DropOverload = "DO" "DropOverload",
    UnconditionalDropOverload = "UDO" "UnconditionalDropOverload",
    UnauthorizedExternalService = "UAEX" "UnauthorizedExternalService",
    DownstreamRemoteReset = "DR" "DownstreamRemoteReset",
    RateLimited = "RL" "RateLimited",
    RateLimitServiceError = "RLSE" "RateLimitServiceError",
    FailedLocalHealthCheck = "LH" "FailedLocalHealthCheck",
    NoFilterConfigFound = "NFCF" "NoFilterConfigFound",
}

/// The flags of a request, each once, in the order they were set.
#[derive(Debug, Clone, Default)]
pub struct Flags(SmallVec<[Flag; 2]>);

impl Flags {
    /// Sets a flag.
    pub fn set(&mut self, flag: Flag) {
        if !self.has(flag) {
            self.0.push(flag);
        }
    }

    /// True if it is set.
    pub fn has(&self, flag: Flag) -> bool {
        self.0.contains(&flag)
    }

    /// The flags.
    pub fn iter(&self) -> impl Iterator<Item = Flag> + '_ {
        self.0.iter().copied()
    }

    /// One bit for each, by its number.
    pub fn bits(&self) -> u32 {
        self.iter().fold(0, |bits, flag| bits | 1 << flag as u8)
    }

    /// What these bits say, as `%RESPONSE_FLAGS%` would: `-` for none.
    pub fn text(bits: u32) -> String {
        let set = Flag::ALL
            .iter()
            .filter(|flag| bits & 1 << **flag as u8 != 0);
        let words: Vec<&str> = set.map(|flag| flag.short()).collect();
        if words.is_empty() {
            return "-".to_owned();
        }
        words.join(",")
    }

    /// True if none is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
