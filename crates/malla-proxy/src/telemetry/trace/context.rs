//! Trace contexts in headers: W3C `traceparent` (<https://www.w3.org/TR/trace-context/>) and Zipkin's B3
//! (<https://github.com/openzipkin/b3-propagation>), read as strictly or leniently as Envoy reads them.
//!
//! Everything here is anybody's bytes: parsers are pure, bounded by the lengths the formats have, and never panic.

use http::{HeaderMap, HeaderName, HeaderValue};

pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const B3: HeaderName = HeaderName::from_static("b3");
const B3_TRACE: HeaderName = HeaderName::from_static("x-b3-traceid");
const B3_SPAN: HeaderName = HeaderName::from_static("x-b3-spanid");
const B3_PARENT: HeaderName = HeaderName::from_static("x-b3-parentspanid");
const B3_SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");

/// The span of the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Trace.
    pub trace: u128,
    /// The caller's span.
    pub span: u64,
    /// The span above it, where B3 says.
    pub parent: Option<u64>,
    /// Somebody decided that the trace is kept.
    pub sampled: bool,
}

/// What is there is no context: the request is not traced, and goes on as it came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// `version-traceid-spanid-flags`.
///
/// # Errors
/// For any other length or alphabet, and for ids of zero.
pub fn traceparent(value: &[u8]) -> Result<Context, Malformed> {
    if value.len() != 55 || [2, 35, 52].iter().any(|at| value.get(*at) != Some(&b'-')) {
        return Err(Malformed);
    }
    hex(value.get(..2))?;
    let high = hex(value.get(3..19))?;
    let low = hex(value.get(19..35))?;
    let span = hex(value.get(36..52))?;
    let flags = hex(value.get(53..))?;
    let trace = u128::from(high) << 64 | u128::from(low);
    if trace == 0 || span == 0 {
        return Err(Malformed);
    }
    Ok(Context {
        trace,
        span,
        parent: None,
        sampled: flags & 1 == 1,
    })
}

/// From 1 to 16 hexadecimal digits.
fn hex(text: Option<&[u8]>) -> Result<u64, Malformed> {
    let text = text
        .filter(|text| (1..=16).contains(&text.len()))
        .ok_or(Malformed)?;
    text.iter().try_fold(0_u64, |value, digit| {
        let digit = char::from(*digit).to_digit(16).ok_or(Malformed)?;
        Ok(value << 4 | u64::from(digit))
    })
}

/// A trace id of up to 16 or exactly 32 digits.
fn trace_id(text: &[u8]) -> Result<u128, Malformed> {
    if text.len() != 32 {
        return hex(Some(text)).map(u128::from);
    }
    let (high, low) = (hex(text.get(..16))?, hex(text.get(16..))?);
    Ok(u128::from(high) << 64 | u128::from(low))
}

/// The single `b3` header: `{trace}-{span}[-{sampled}[-{parent}]]`, or `{sampled}` alone, which is no context.
///
/// # Errors
/// For anything else. `sampled` counts where the header does not say.
pub fn b3_single(value: &[u8], sampled: bool) -> Result<Option<Context>, Malformed> {
    if let [flag] = value {
        return if is_flag(*flag) {
            Ok(None)
        } else {
            Err(Malformed)
        };
    }
    if value.len() > 68 {
        return Err(Malformed);
    }
    let mut parts = value.split(|byte| *byte == b'-');
    let trace = parts.next().unwrap_or_default();
    let span = parts.next().ok_or(Malformed)?;
    if !matches!(trace.len(), 16 | 32) || span.len() != 16 {
        return Err(Malformed);
    }
    match parts.next() {
        None | Some([b'0' | b'1' | b'd']) => {}
        Some(_) => return Err(Malformed),
    }
    let parent = match parts.next() {
        None => None,
        Some(parent) if parent.len() == 16 => Some(hex(Some(parent))?),
        Some(_) => return Err(Malformed),
    };
    if parts.next().is_some() {
        return Err(Malformed);
    }
    Ok(Some(Context {
        trace: trace_id(trace)?,
        span: hex(Some(span))?,
        parent: parent.filter(|parent| *parent != 0),
        sampled,
    }))
}

fn is_flag(byte: u8) -> bool {
    matches!(byte, b'0' | b'1' | b'd')
}

/// Where the flag of a single `b3` header stands decides by its length alone (Envoy's rule).
fn b3_single_flag(value: &[u8]) -> Option<bool> {
    let at = match value.len() {
        1 => 0,
        35 | 52 => 34,
        51 | 68 => 50,
        _ => return None,
    };
    let flag = value.get(at).copied().filter(|flag| is_flag(*flag))?;
    Some(flag != b'0')
}

/// What B3 headers say: whether the trace is kept, if they say so, and the caller's span, if they name one.
///
/// # Errors
/// When there are ids that are none.
pub fn b3(
    headers: &HeaderMap,
    fallback: bool,
    w3c: bool,
) -> Result<(Option<bool>, Option<Context>), Malformed> {
    let get = |name: &HeaderName| headers.get(name).map(HeaderValue::as_bytes);
    if let Some(single) = get(&B3) {
        let said = b3_single_flag(single);
        return Ok((said, b3_single(single, said.unwrap_or(fallback))?));
    }
    let said = get(&B3_SAMPLED).map(|flag| flag == b"1" || flag == b"true");
    match (get(&B3_TRACE), get(&B3_SPAN)) {
        (Some(trace), Some(span)) => {
            let parent = match get(&B3_PARENT) {
                Some(parent) if !parent.is_empty() => Some(hex(Some(parent))?),
                _ => None,
            };
            let context = Context {
                trace: trace_id(trace)?,
                span: hex(Some(span))?,
                parent: parent.filter(|parent| *parent != 0),
                sampled: said.unwrap_or(fallback),
            };
            Ok((said, Some(context)))
        }
        _ if w3c => match get(&TRACEPARENT).map(traceparent) {
            Some(Ok(context)) => Ok((said.or(Some(context.sampled)), Some(context))),
            Some(Err(_)) | None => Ok((said, None)),
        },
        _ => Ok((said, None)),
    }
}

/// Writes numbers as lower-case hexadecimal of full width.
pub fn write_hex(out: &mut [u8], mut value: u128) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for place in out.iter_mut().rev() {
        *place = DIGITS[(value & 15) as usize]; // Below 16 by the mask.
        value >>= 4;
    }
}

/// `traceparent` for an upstream.
pub fn traceparent_value(trace: u128, span: u64, sampled: bool) -> HeaderValue {
    let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(&mut out[3..35], trace);
    write_hex(&mut out[36..52], span.into());
    if sampled {
        out[54] = b'1';
    }
    HeaderValue::from_bytes(&out).unwrap_or(HeaderValue::from_static(""))
}

/// An id as a header, 16 digits, or 32 for wide trace ids.
fn id_value(id: u128, wide: bool) -> HeaderValue {
    let mut out = [0; 32];
    write_hex(&mut out, id);
    let digits = if wide { &out[..] } else { &out[16..] };
    HeaderValue::from_bytes(digits).unwrap_or(HeaderValue::from_static(""))
}

/// The single `b3` header of a span.
fn b3_value(ids: &Context, wide: bool) -> HeaderValue {
    let digits = if wide { 32 } else { 16 };
    let sampled = u8::from(ids.sampled);
    let mut text = format!("{:0digits$x}-{:016x}-{sampled}", ids.trace, ids.span);
    if let Some(parent) = ids.parent {
        text.push_str(&format!("-{parent:016x}"));
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// Writes the B3 headers of a span: the single one where the caller wrote that, else one for each fact.
pub fn write_b3(headers: &mut HeaderMap, ids: &Context, wide: bool) {
    if headers.contains_key(B3) {
        headers.insert(B3, b3_value(ids, wide));
        return;
    }
    headers.insert(B3_TRACE, id_value(ids.trace, wide));
    headers.insert(B3_SPAN, id_value(ids.span.into(), false));
    if let Some(parent) = ids.parent {
        headers.insert(B3_PARENT, id_value(parent.into(), false));
    }
    let sampled = if ids.sampled { "1" } else { "0" };
    headers.insert(B3_SAMPLED, HeaderValue::from_static(sampled));
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::{Context, Malformed, b3, b3_single, traceparent, traceparent_value, write_b3};

    const PARENT: &[u8] = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn traceparents() {
        let check = |text: &[u8], want: bool| {
            assert_eq!(traceparent(text).is_ok(), want, "{}", text.escape_ascii());
        };
        check(PARENT, true);
        check(
            b"cc-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
            true,
        );
        check(
            b"00-00000000000000000000000000000000-b7ad6b7169203331-01",
            false,
        );
        check(
            b"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            false,
        );
        check(
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
            false,
        );
        check(
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            false,
        );
        check(
            b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333--01",
            false,
        );
        check(
            b"+0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            false,
        );
        check(b"", false);
        check(&[0xff; 55], false);
        assert!(traceparent(PARENT).unwrap().sampled);
    }

    #[test]
    fn single_b3_headers() {
        let check = |text: &str, want: Result<Option<(u128, u64, Option<u64>)>, Malformed>| {
            let have = b3_single(text.as_bytes(), true);
            let have = have.map(|context| context.map(|it| (it.trace, it.span, it.parent)));
            assert_eq!(have, want, "{text}");
        };
        check("1", Ok(None));
        check("x", Err(Malformed));
        check("", Err(Malformed));
        check(
            "00000000000000aa-00000000000000bb",
            Ok(Some((0xaa, 0xbb, None))),
        );
        check(
            "000000000000000100000000000000aa-00000000000000bb-d-00000000000000cc",
            Ok(Some((1 << 64 | 0xaa, 0xbb, Some(0xcc)))),
        );
        check("00000000000000aa-00000000000000bb-", Err(Malformed));
        check("00000000000000aa-00000000000000bb-2", Err(Malformed));
        check("00000000000000aa-00000000000000bb-1-cc", Err(Malformed));
        check("aa-bb", Err(Malformed));
        check(&"-".repeat(40), Err(Malformed));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1_u128.., span in 1_u64.., parent in any::<Option<u64>>(), sampled: bool) {
            let parent = parent.filter(|parent| *parent != 0);
            let ids = Context { trace, span, parent, sampled };
            let value = traceparent_value(trace, span, sampled);
            prop_assert_eq!(traceparent(value.as_bytes()), Ok(Context { parent: None, ..ids }));
            let mut headers = HeaderMap::new();
            write_b3(&mut headers, &ids, true);
            prop_assert_eq!(b3(&headers, !sampled, false), Ok((Some(sampled), Some(ids))));
            let mut headers = HeaderMap::from_iter([(super::B3, HeaderValue::from_static("1"))]);
            write_b3(&mut headers, &ids, true);
            prop_assert_eq!(headers.len(), 1);
            prop_assert_eq!(b3(&headers, !sampled, false), Ok((Some(sampled), Some(ids))));
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, at in 0_usize..55, byte: u8) {
            let _ = traceparent(&bytes);
            let _ = b3_single(&bytes, true);
            let mut near = PARENT.to_vec();
            near[at] = byte;
            let _ = traceparent(&near);
            let mut headers = HeaderMap::new();
            for name in ["b3", "x-b3-traceid", "x-b3-spanid", "x-b3-parentspanid", "x-b3-sampled", "traceparent"] {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    headers.insert(name, value);
                    let _ = b3(&headers, true, true);
                }
            }
        }
    }
}
