//! Owns what a test changes of a token: a JWT, signed with the API server's own key (RFC 7515, 7518).

use rcgen::{KeyPair, SigningKey};
use serde_json::Value;

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What a token claims.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).expect("a token has three parts");
    serde_json::from_slice(&decode(payload)).expect("the second part is JSON")
}

/// The same token, as if it had been issued that many seconds earlier.
pub(crate) fn aged(token: &str, seconds: i64, signing_key: &str) -> String {
    let header = token.split('.').next().expect("a token has three parts");
    let mut claims = claims(token);
    for time in ["exp", "iat", "nbf"] {
        claims[time] = (claims[time].as_i64().expect("a bound token has all three") - seconds).into();
    }
    let signed = format!("{header}.{}", encode(claims.to_string().as_bytes()));
    let key = KeyPair::from_pem(signing_key).expect("it was made by rcgen");
    let signature = key.sign(signed.as_bytes()).expect("it is a private key");
    format!("{signed}.{}", encode(&fixed(&signature)))
}

/// Both numbers of an ECDSA signature in DER, each with 32 bytes.
fn fixed(der: &[u8]) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let (number, others) = rest[2..].split_at(usize::from(rest[1]));
        let digits = &number[number.len().saturating_sub(32)..];
        numbers.extend(std::iter::repeat_n(0, 32 - digits.len()));
        numbers.extend(digits);
        rest = others;
    }
    numbers
}

fn encode(bytes: &[u8]) -> String {
    let digit = |bits: u32| char::from(DIGITS[(bits & 63) as usize]);
    let group = |three: &[u8]| {
        let bits = (0..3).fold(0, |bits, at| bits << 8 | u32::from(three.get(at).copied().unwrap_or_default()));
        let digits = [bits >> 18, bits >> 12, bits >> 6, bits].map(digit);
        digits[..=three.len()].iter().collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

fn decode(text: &str) -> Vec<u8> {
    let bits: Vec<bool> = text
        .bytes()
        .map(|digit| DIGITS.iter().position(|known| *known == digit).expect("base64url"))
        .flat_map(|value| (0..6).rev().map(move |at| value >> at & 1 == 1))
        .collect();
    bits.chunks_exact(8).map(|byte| byte.iter().fold(0, |value, bit| value << 1 | u8::from(*bit))).collect()
}
