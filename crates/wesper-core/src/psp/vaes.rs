//! AES-256 of many key derivations at once by VAES on 512-bit registers, from the SPI to the key without a detour.
//!
//! A derivation's block is the same for every SPI but for one word, so blocks are made in registers: four of them in
//! each, eight registers in flight. The portable way through memory costs three times as much.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, __m512i, _mm_aeskeygenassist_si128, _mm_loadu_si128, _mm_setr_epi32, _mm_shuffle_epi32, _mm_slli_si128,
    _mm_storeu_si128, _mm_xor_si128, _mm512_add_epi32, _mm512_aesenc_epi128, _mm512_aesenclast_epi128,
    _mm512_broadcast_i32x4, _mm512_loadu_si512, _mm512_maskz_permutexvar_epi32, _mm512_set1_epi32, _mm512_setr_epi32,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_storeu_si512, _mm512_xor_si512,
};

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Registers in flight: more than the instruction's latency in cycles.
const IN_FLIGHT: usize = 8;
/// Octets of keys that one turn makes.
const TURN: usize = 64 * IN_FLIGHT;

/// The four blocks of a register.
type Lanes = [[u8; 16]; 4];

/// The round keys of AES-256. Has no `Debug`; wiped when dropped.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Schedule {
    rounds: [[u8; 16]; 15],
}

impl Schedule {
    /// Expands a key; none if this processor has not what [`Self::derive`] needs.
    pub(super) fn new(key: &[u8; 32]) -> Option<Self> {
        let able = is_x86_feature_detected!("vaes")
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("aes");
        // SAFETY: the processor has AES-NI, just asked.
        able.then(|| unsafe { expand(key) })
    }

    /// Writes the keys of SPIs: for each of them every template, encrypted with the SPI in its third word.
    ///
    /// templates: one for keys of 16 octets, two for keys of 32; other numbers do nothing. out: as long as all keys.
    pub(super) fn derive(&self, templates: &[[u8; 16]], spis: &[u32], out: &mut [u8]) {
        match *templates {
            [one] => self.derive_as::<1, { TURN / 16 }>(&[one; 4], spis, out),
            [one, two] => self.derive_as::<2, { TURN / 32 }>(&[one, two, one, two], spis, out),
            _ => (),
        }
    }

    /// Encrypts so many turns' blocks in registers alone, each turn the outcome of the one before: what no derivation can
    /// beat. Returns an octet of the last.
    pub(super) fn bare_turns(&self, turns: usize) -> u8 {
        // SAFETY: `new` made this schedule, so the processor has VAES and AVX-512 F.
        unsafe { bare_turns(&self.rounds, turns) }
    }

    /// Blocks of a turn.
    pub(super) const BLOCKS: usize = TURN / 16;

    /// PER_KEY: blocks a key. SPIS: of one turn.
    fn derive_as<const PER_KEY: usize, const SPIS: usize>(&self, lanes: &Lanes, spis: &[u32], out: &mut [u8]) {
        let (whole, rest) = spis.as_chunks::<SPIS>();
        let (places, last) = out.as_chunks_mut::<TURN>();
        // SAFETY: `new` made this schedule, so the processor has VAES, AVX-512 F and BW.
        unsafe { derive_turns::<PER_KEY, SPIS>(&self.rounds, lanes, whole, places) };
        if rest.is_empty() {
            return;
        }
        let mut padded = [0; SPIS];
        padded.iter_mut().zip(rest).for_each(|(place, spi)| *place = *spi);
        let mut keys = [[0; TURN]];
        // SAFETY: as above.
        unsafe { derive_turns::<PER_KEY, SPIS>(&self.rounds, lanes, &[padded], &mut keys) };
        last.iter_mut().zip(keys.as_flattened()).for_each(|(place, octet)| *place = *octet);
        keys.zeroize();
    }
}

/// Derives the keys of whole turns.
///
/// # Safety
/// The processor has VAES, AVX-512 F and BW.
#[target_feature(enable = "vaes,avx512f,avx512bw")]
unsafe fn derive_turns<const PER_KEY: usize, const SPIS: usize>(
    rounds: &[[u8; 16]; 15],
    lanes: &Lanes,
    spis: &[[u32; SPIS]],
    out: &mut [[u8; TURN]],
) {
    // SAFETY: loads of 16 and 64 octets out of arrays of that size.
    let (keys, template) = unsafe {
        let keys: [__m512i; 15] =
            rounds.each_ref().map(|key| _mm512_broadcast_i32x4(_mm_loadu_si128(key.as_ptr().cast())));
        (keys, _mm512_loadu_si512(lanes.as_ptr().cast()))
    };
    let [whitening, middle @ .., last] = &keys;
    let start = _mm512_xor_si512(template, *whitening);
    // Octets of each word turned round: SPIs stand in network order.
    let swap = _mm512_broadcast_i32x4(_mm_setr_epi32(0x0001_0203, 0x0405_0607, 0x0809_0a0b, 0x0c0d_0e0f));
    // Word 2 of each lane takes the SPI of its key.
    let places = if PER_KEY == 1 {
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0)
    } else {
        _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0)
    };
    const WORD_2: u16 = 0b0100_0100_0100_0100;
    let keys_a_register = 4 / PER_KEY;
    for (turn, place) in spis.iter().zip(out) {
        let mut state = [_mm512_setzero_si512(); IN_FLIGHT];
        for (group, states) in turn.chunks_exact(16).zip(state.chunks_exact_mut(16 / keys_a_register)) {
            // SAFETY: `group` is 16 words, 64 octets.
            let group = unsafe { _mm512_loadu_si512(group.as_ptr().cast()) };
            let group = _mm512_shuffle_epi8(group, swap);
            let mut at = 0;
            for state in states {
                let index = _mm512_add_epi32(places, _mm512_set1_epi32(at));
                *state = _mm512_xor_si512(start, _mm512_maskz_permutexvar_epi32(WORD_2, index, group));
                at += keys_a_register as i32;
            }
        }
        for key in middle {
            for state in &mut state {
                *state = _mm512_aesenc_epi128(*state, *key);
            }
        }
        for (state, place) in state.iter().zip(place.as_chunks_mut::<64>().0) {
            // SAFETY: `place` is 64 octets.
            unsafe { _mm512_storeu_si512(place.as_mut_ptr().cast(), _mm512_aesenclast_epi128(*state, *last)) };
        }
    }
}

/// Encrypts blocks that stay in registers.
///
/// # Safety
/// The processor has VAES and AVX-512 F.
#[target_feature(enable = "vaes,avx512f")]
unsafe fn bare_turns(rounds: &[[u8; 16]; 15], turns: usize) -> u8 {
    // SAFETY: loads of 16 octets out of arrays of that size.
    let keys: [__m512i; 15] =
        rounds.each_ref().map(|key| unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(key.as_ptr().cast())) });
    let [whitening, middle @ .., last] = &keys;
    let mut state: [__m512i; IN_FLIGHT] = std::array::from_fn(|index| _mm512_set1_epi32(index as i32));
    for _ in 0..turns {
        for state in &mut state {
            *state = _mm512_xor_si512(*state, *whitening);
        }
        for key in middle {
            for state in &mut state {
                *state = _mm512_aesenc_epi128(*state, *key);
            }
        }
        for state in &mut state {
            *state = _mm512_aesenclast_epi128(*state, *last);
        }
    }
    let mut octets = [0; 64];
    for state in state {
        // SAFETY: `octets` is 64 octets.
        unsafe { _mm512_storeu_si512(octets.as_mut_ptr().cast(), state) };
        std::hint::black_box(&octets);
    }
    octets[0]
}

/// Expands an AES-256 key (FIPS 197 §5.2).
///
/// # Safety
/// The processor has AES-NI.
#[target_feature(enable = "aes,sse2")]
unsafe fn expand(key: &[u8; 32]) -> Schedule {
    let mut rounds = [[0; 16]; 15];
    // SAFETY: two loads of 16 octets out of 32.
    let (mut even, mut odd) =
        unsafe { (_mm_loadu_si128(key.as_ptr().cast()), _mm_loadu_si128(key.as_ptr().add(16).cast())) };
    let mut keep = |at: usize, key: __m128i| {
        if let Some(place) = rounds.get_mut(at) {
            // SAFETY: `place` is 16 octets.
            unsafe { _mm_storeu_si128(place.as_mut_ptr().cast(), key) };
        }
    };
    keep(0, even);
    keep(1, odd);
    macro_rules! turn {
        ($at:literal, $constant:literal) => {
            even = _mm_xor_si128(spread(even), _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<$constant>(odd)));
            keep($at, even);
            if $at < 14 {
                odd = _mm_xor_si128(spread(odd), _mm_shuffle_epi32::<0xaa>(_mm_aeskeygenassist_si128::<0>(even)));
                keep($at + 1, odd);
            }
        };
    }
    turn!(2, 0x01);
    turn!(4, 0x02);
    turn!(6, 0x04);
    turn!(8, 0x08);
    turn!(10, 0x10);
    turn!(12, 0x20);
    turn!(14, 0x40);
    Schedule { rounds }
}

/// Each word XOR all words before it.
#[inline]
#[target_feature(enable = "sse2")]
fn spread(key: __m128i) -> __m128i {
    let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
    _mm_xor_si128(key, _mm_slli_si128::<8>(key))
}
