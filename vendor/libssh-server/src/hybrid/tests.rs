use proptest::prelude::*;

use super::*;

/// The fields of each line of vectors.txt that begins with `kind`, of hexadecimal digits.
fn vectors(kind: &str) -> Vec<Vec<Vec<u8>>> {
    let lines = include_str!("vectors.txt").lines().filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
    let vectors: Vec<Vec<_>> = lines.map(|line| line.split(' ').map(bytes).collect()).collect();
    assert!(!vectors.is_empty(), "no vectors of the kind {kind}");
    vectors
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// The key that FIPS 203 makes of d and z.
fn decapsulation_key(seed: &[u8]) -> PKey<Private> {
    PKey::private_key_from_seed(None, KeyType::ML_KEM_768, None, seed).unwrap()
}

fn x25519(private: &[u8]) -> PKey<Private> {
    PKey::private_key_from_raw_bytes(private, Id::X25519).unwrap()
}

#[test]
fn published_ciphertexts_open_to_the_published_secrets() {
    for vector in vectors("open") {
        let [seed, encapsulation, ciphertext, secret] = &vector[..] else { panic!("four fields") };
        let (client, init) = Client::with(decapsulation_key(seed), PKey::generate_x25519().unwrap()).unwrap();
        assert_eq!(init[..ENCAPSULATION_KEY], encapsulation[..]);
        assert_eq!(*kem::decapsulate(&client.decapsulation, ciphertext).unwrap(), secret[..]);
    }
}

#[test]
fn published_x25519_keys_agree_on_the_published_secrets() {
    for vector in vectors("agree") {
        let [private, public, secret] = &vector[..] else { panic!("three fields") };
        assert_eq!(*agree(&x25519(private), public).unwrap(), secret[..]);
    }
}

#[test]
fn the_secret_is_the_hash_of_both_with_that_of_ml_kem_first() {
    let (open, agree) = (vectors("open").remove(0), vectors("agree").remove(0));
    let (client, init) = Client::with(decapsulation_key(&open[0]), x25519(&agree[0])).unwrap();
    assert_eq!(init.len(), 1184 + 32);
    let secret = client.finish(&[&open[2][..], &agree[1]].concat()).unwrap();
    // By hashlib, of the last fields of both.
    assert_eq!(*secret, bytes("aa4526f22e2884c80291fb8c5826e5efa99945f70be3e72c2b97be87815a06ed"));
}

#[test]
fn both_sides_have_the_same_secret_and_the_next_exchange_another() {
    let exchange = || {
        let (client, init) = Client::begin().unwrap();
        let (reply, secret) = respond(&init).unwrap();
        assert_eq!((init.len(), reply.len(), secret.len()), (1184 + 32, 1088 + 32, 32));
        assert_eq!(*client.finish(&reply).unwrap(), *secret);
        secret.to_vec()
    };
    assert_ne!(exchange(), exchange());
}

#[test]
fn an_encapsulation_key_with_too_large_a_coefficient_is_refused() {
    for vector in vectors("refuse") {
        let init = [&vector[0][..], &[9; X25519]].concat();
        assert!(matches!(respond(&init), Err(Error::EncapsulationKey)));
    }
}

#[test]
fn an_x25519_key_of_small_order_is_refused_by_each_side() {
    for vector in vectors("zero") {
        let (client, mut init) = Client::begin().unwrap();
        let (mut reply, _) = respond(&init).unwrap();
        init.splice(ENCAPSULATION_KEY.., vector[0].iter().copied());
        reply.splice(CIPHERTEXT.., vector[0].iter().copied());
        assert!(matches!(respond(&init), Err(Error::SmallOrder)));
        assert!(matches!(client.finish(&reply), Err(Error::SmallOrder)));
    }
}

#[test]
fn another_length_is_refused_by_each_side() {
    let length = |error: Option<Error>| match error {
        Some(Error::Length { expected, found }) => (expected, found),
        other => panic!("{other:?}"),
    };
    for (init_length, reply_length) in [(0, 0), (32, 32), (1184, 1088), (1215, 1119), (1217, 1121), (35000, 35000)] {
        let (client, mut init) = Client::begin().unwrap();
        let (mut reply, _) = respond(&init).unwrap();
        init.resize(init_length, 0);
        reply.resize(reply_length, 0);
        assert_eq!(length(respond(&init).err()), (1216, init_length));
        assert_eq!(length(client.finish(&reply).err()), (1120, reply_length));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn one_bit_changed_in_the_answer_gives_another_secret(bit in 0..(CIPHERTEXT + X25519) * 8) {
        let (client, init) = Client::begin().unwrap();
        let (mut reply, secret) = respond(&init).unwrap();
        reply[bit / 8] ^= 1 << (bit % 8);
        // The highest bit of an X25519 key is none (RFC 7748 section 5).
        let means_the_same = bit == (CIPHERTEXT + X25519) * 8 - 1;
        prop_assert_eq!(*client.finish(&reply).unwrap() == *secret, means_the_same);
    }

    #[test]
    fn any_bytes_are_taken_or_refused(data in prop::collection::vec(any::<u8>(), 0..1300)) {
        fuzz(&data);
    }
}
