//! Private keys: read from their files, and used to sign.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::BytesMut;
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA512, RsaKeyPair,
};
use zeroize::Zeroizing;

use super::agent::{put_string, take_string};

/// A private key that can sign.
pub(super) struct Key {
    pair: Pair,
    public: Vec<u8>,
    comment: String,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair, &'static Curve),
    Rsa(Box<RsaKeyPair>),
}

struct Curve {
    name: &'static str,
    algorithm: &'static EcdsaSigningAlgorithm,
    /// Bytes of a coordinate.
    size: usize,
    /// DER of its object identifier.
    oid: &'static [u8],
}

static CURVES: [Curve; 2] = [
    Curve {
        name: "nistp256",
        algorithm: &ECDSA_P256_SHA256_FIXED_SIGNING,
        size: 32,
        oid: &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
    },
    Curve {
        name: "nistp384",
        algorithm: &ECDSA_P384_SHA384_FIXED_SIGNING,
        size: 48,
        oid: &[0x2b, 0x81, 0x04, 0x00, 0x22],
    },
];

/// Why a file is no key that can be used. Holds nothing of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// Not a private key in PEM form.
    NotAKey,
    /// It needs a passphrase.
    Encrypted,
    /// A kind of key that is not known here.
    Unsupported(String),
    /// The key contradicts itself, or is too short to be safe.
    Invalid,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAKey => f.write_str("not a private key"),
            Self::Encrypted => {
                f.write_str("the key needs a passphrase: add it to an ssh agent and offer that")
            }
            Self::Unsupported(kind) => {
                let kind = crate::progress::one_line(kind);
                write!(f, "keys of the kind {kind} are not supported: add it to an ssh agent and offer that")
            }
            Self::Invalid => f.write_str("the key is not valid, or too short"),
        }
    }
}

impl std::error::Error for KeyError {}

impl Key {
    /// Reads a key in OpenSSH's form, or of PKCS#1, SEC 1 or PKCS#8.
    pub(super) fn parse(file: &[u8]) -> Result<Self, KeyError> {
        let text = std::str::from_utf8(file).map_err(|_| KeyError::NotAKey)?;
        let (label, body) = pem(text).ok_or(KeyError::NotAKey)?;
        if body.contains("ENCRYPTED") || label == "ENCRYPTED PRIVATE KEY" {
            return Err(KeyError::Encrypted);
        }
        let base64: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        let der = Zeroizing::new(STANDARD.decode(base64.as_bytes()).map_err(|_| KeyError::NotAKey)?);
        match label {
            "OPENSSH PRIVATE KEY" => openssh(&der),
            "RSA PRIVATE KEY" => rsa(RsaKeyPair::from_der(&der).map_err(|_| KeyError::Invalid)?, ""),
            "EC PRIVATE KEY" => sec1(&der),
            "PRIVATE KEY" => pkcs8(&der),
            label => Err(KeyError::Unsupported(label.to_owned())),
        }
    }

    /// The public key as agents say it.
    pub(super) fn public_blob(&self) -> &[u8] {
        &self.public
    }

    pub(super) fn comment(&self) -> &str {
        &self.comment
    }

    /// The name of the algorithm and the signature; `None` when this key cannot sign so.
    pub(super) fn sign(&self, data: &[u8], flags: u32) -> Option<(String, Vec<u8>)> {
        const SHA256: u32 = 2;
        const SHA512: u32 = 4;
        match &self.pair {
            Pair::Ed25519(pair) => Some(("ssh-ed25519".into(), pair.sign(data).as_ref().to_vec())),
            Pair::Ecdsa(pair, curve) => {
                let fixed = pair.sign(&SystemRandom::new(), data).ok()?;
                let (r, s) = fixed.as_ref().split_at_checked(curve.size)?;
                let mut signature = BytesMut::new();
                put_mpint(&mut signature, r)?;
                put_mpint(&mut signature, s)?;
                Some((format!("ecdsa-sha2-{}", curve.name), signature.to_vec()))
            }
            Pair::Rsa(pair) => {
                // Without a flag SHA-1 is asked for, which no server of today takes.
                let (name, padding) = if flags & SHA512 != 0 {
                    ("rsa-sha2-512", &RSA_PKCS1_SHA512)
                } else if flags & SHA256 != 0 {
                    ("rsa-sha2-256", &RSA_PKCS1_SHA256)
                } else {
                    return None;
                };
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &SystemRandom::new(), data, &mut signature).ok()?;
                Some((name.into(), signature))
            }
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("comment", &self.comment).finish_non_exhaustive()
    }
}

/// Label and body of the first PEM block.
fn pem(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, rest) = rest.split_once("-----END ")?;
    rest.starts_with(label).then_some((label, body))
}

#[allow(clippy::many_single_char_names)] // the numbers of RSA are known by these
fn openssh(der: &[u8]) -> Result<Key, KeyError> {
    let rest = der.strip_prefix(b"openssh-key-v1\0").ok_or(KeyError::NotAKey)?;
    let (cipher, private) = openssh_parts(rest).ok_or(KeyError::NotAKey)?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    let mut rest = private;
    // Two equal numbers tell a wrong passphrase from a right one.
    let (check, after) = rest.split_first_chunk::<8>().ok_or(KeyError::NotAKey)?;
    if check[..4] != check[4..] {
        return Err(KeyError::Invalid);
    }
    rest = after;
    let mut next = || take_string(&mut rest).ok_or(KeyError::NotAKey);
    let kind = next()?;
    match kind {
        b"ssh-ed25519" => {
            let (public, pair) = (next()?, next()?);
            let seed = pair.get(..32).ok_or(KeyError::Invalid)?;
            let pair =
                Ed25519KeyPair::from_seed_and_public_key(seed, public).map_err(|_| KeyError::Invalid)?;
            ed25519(pair, &comment(next()?))
        }
        b"ssh-rsa" => {
            let [n, e, d, q_inv, p, q] = [next()?, next()?, next()?, next()?, next()?, next()?];
            let comment = comment(next()?);
            rsa(rsa_pair(n, e, d, p, q, q_inv).ok_or(KeyError::Invalid)?, &comment)
        }
        kind => {
            let name = String::from_utf8_lossy(kind).into_owned();
            let curve =
                name.strip_prefix("ecdsa-sha2-").and_then(|name| CURVES.iter().find(|c| c.name == name));
            let Some(curve) = curve else { return Err(KeyError::Unsupported(name)) };
            let (_, public, private) = (next()?, next()?, next()?);
            ecdsa(curve, private, public, &comment(next()?))
        }
    }
}

/// Cipher and private part.
fn openssh_parts(mut rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let cipher = take_string(&mut rest)?;
    let (_kdf, _options) = (take_string(&mut rest)?, take_string(&mut rest)?);
    let (keys, mut rest) = rest.split_first_chunk::<4>()?;
    (u32::from_be_bytes(*keys) == 1).then_some(())?;
    let _public = take_string(&mut rest)?;
    Some((cipher, take_string(&mut rest)?))
}

fn comment(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ed25519(pair: Ed25519KeyPair, comment: &str) -> Result<Key, KeyError> {
    let public = blob(&[b"ssh-ed25519", pair.public_key().as_ref()]);
    Ok(Key {
        pair: Pair::Ed25519(pair),
        public: public.ok_or(KeyError::Invalid)?,
        comment: comment.to_owned(),
    })
}

fn ecdsa(curve: &'static Curve, private: &[u8], public: &[u8], comment: &str) -> Result<Key, KeyError> {
    let scalar = Zeroizing::new(padded(private, curve.size).ok_or(KeyError::Invalid)?);
    let pair =
        EcdsaKeyPair::from_private_key_and_public_key(curve.algorithm, &scalar, public, &SystemRandom::new());
    let pair = pair.map_err(|_| KeyError::Invalid)?;
    ecdsa_key(pair, curve, comment)
}

fn ecdsa_key(pair: EcdsaKeyPair, curve: &'static Curve, comment: &str) -> Result<Key, KeyError> {
    let name = format!("ecdsa-sha2-{}", curve.name);
    let public = blob(&[name.as_bytes(), curve.name.as_bytes(), pair.public_key().as_ref()]);
    let public = public.ok_or(KeyError::Invalid)?;
    Ok(Key { pair: Pair::Ecdsa(pair, curve), public, comment: comment.to_owned() })
}

fn rsa(pair: RsaKeyPair, comment: &str) -> Result<Key, KeyError> {
    let public = rsa_blob(pair.public().as_ref()).ok_or(KeyError::Invalid)?;
    Ok(Key { pair: Pair::Rsa(Box::new(pair)), public, comment: comment.to_owned() })
}

/// The agent's form of a public key in DER.
fn rsa_blob(der: &[u8]) -> Option<Vec<u8>> {
    let mut rest = der_take(&mut &*der, 0x30)?;
    let (n, e) = (der_take(&mut rest, 0x02)?, der_take(&mut rest, 0x02)?);
    // DER integers and the agent's are the same bytes.
    blob(&[b"ssh-rsa", e, n])
}

fn blob(parts: &[&[u8]]) -> Option<Vec<u8>> {
    let mut out = BytesMut::new();
    parts.iter().try_for_each(|part| put_string(&mut out, part))?;
    Some(out.to_vec())
}

fn pkcs8(der: &[u8]) -> Result<Key, KeyError> {
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
        return ed25519(pair, "");
    }
    if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
        return rsa(pair, "");
    }
    for curve in &CURVES {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(curve.algorithm, der, &SystemRandom::new()) {
            return ecdsa_key(pair, curve, "");
        }
    }
    Err(KeyError::Unsupported("in this PKCS#8 file".into()))
}

/// `ECPrivateKey`: a version, the scalar, the curve and the public key.
fn sec1(der: &[u8]) -> Result<Key, KeyError> {
    let parts = || {
        let mut rest = der_take(&mut &*der, 0x30)?;
        der_take(&mut rest, 0x02)?;
        let scalar = der_take(&mut rest, 0x04)?;
        let oid = der_take(&mut der_take(&mut rest, 0xa0)?, 0x06)?;
        let public = der_take(&mut der_take(&mut rest, 0xa1)?, 0x03)?;
        Some((scalar, oid, public.strip_prefix(&[0])?))
    };
    let (scalar, oid, public) = parts().ok_or(KeyError::NotAKey)?;
    match CURVES.iter().find(|curve| curve.oid == oid) {
        Some(curve) => ecdsa(curve, scalar, public, ""),
        None => Err(KeyError::Unsupported("of this elliptic curve".into())),
    }
}

/// Takes the content of a DER value with this tag from the front.
fn der_take<'a>(from: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (&[found, length], rest) = from.split_first_chunk::<2>()?;
    (found == tag).then_some(())?;
    let (length, rest) = if length < 0x80 {
        (usize::from(length), rest)
    } else {
        let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
        (bytes.len() <= 4).then_some(())?;
        (bytes.iter().fold(0, |length, &byte| length << 8 | usize::from(byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *from = rest;
    Some(content)
}

/// OpenSSH leaves out two of the numbers that make signing fast.
#[allow(clippy::many_single_char_names)] // the numbers of RSA are known by these
fn rsa_pair(n: &[u8], e: &[u8], d: &[u8], p: &[u8], q: &[u8], q_inv: &[u8]) -> Option<RsaKeyPair> {
    let [n, e, d, p, q, q_inv] = [n, e, d, p, q, q_inv].map(trimmed);
    let (dp, dq) = (remainder(d, p)?, remainder(d, q)?);
    let components = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: trimmed(&dp),
        dQ: trimmed(&dq),
        qInv: q_inv,
    };
    RsaKeyPair::from_components(&components).ok()
}

/// `number` modulo (`prime` − 1), both big-endian.
fn remainder(number: &[u8], prime: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut modulus = Zeroizing::new(prime.to_vec());
    let last = modulus.last_mut()?;
    // Primes are odd: taking one away needs no borrow.
    *last = last.checked_sub(1).filter(|last| last % 2 == 0)?;
    if modulus.iter().all(|&byte| byte == 0) || number.len() > 2048 || prime.len() > 2048 {
        return None;
    }
    // One more byte in front, for the doubling.
    let mut rest = Zeroizing::new(vec![0u8; modulus.len() + 1]);
    modulus.insert(0, 0);
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if rest.as_slice() >= modulus.as_slice() {
            let mut borrow = false;
            for (byte, &less) in rest.iter_mut().zip(modulus.iter()).rev() {
                let (difference, first) = byte.overflowing_sub(less);
                let (difference, second) = difference.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (difference, first || second);
            }
        }
    }
    Some(rest)
}

fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A number with exactly this many bytes.
fn padded(number: &[u8], size: usize) -> Option<Vec<u8>> {
    let number = trimmed(number);
    let mut out = vec![0; size.checked_sub(number.len())?];
    out.extend_from_slice(number);
    Some(out)
}

/// Appends a number that is not negative.
fn put_mpint(out: &mut BytesMut, number: &[u8]) -> Option<()> {
    let number = trimmed(number);
    let mut signed = Vec::with_capacity(number.len() + 1);
    if number.first().is_some_and(|&byte| byte >= 0x80) {
        signed.push(0);
    }
    signed.extend_from_slice(number);
    put_string(out, &signed)
}
