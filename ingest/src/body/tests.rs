use super::*;
use crate::pressure::Budget;
use futures::{Stream, stream};
use std::io;
use std::sync::Arc;

const BOUNDS: Bounds =
    Bounds { max: 10, timeout: Duration::from_secs(60), window: Duration::from_secs(10), window_bytes: 1 };

fn upload(chunks: &[&'static str]) -> Upload {
    let chunks: Vec<Result<Bytes, io::Error>> =
        chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
    Upload::new(Body::from_stream(stream::iter(chunks)))
}

async fn read(upload: &mut Upload, bounds: &Bounds, held: &mut Reservation) -> Result<Bytes, Stopped> {
    upload.read(Coding::Identity, bounds, held).await.map(|read| read.body)
}

#[tokio::test]
async fn pieces_are_joined_and_accounted_for() {
    let budget = Budget::new(100, 0);
    let mut held = budget.reserve();
    let Read { body, received } =
        upload(&["ab", "", "cde", "f"]).read(Coding::Identity, &BOUNDS, &mut held).await.unwrap();
    assert_eq!((&body[..], received), (&b"abcdef"[..], 6));
    assert!((6..=10).contains(&budget.used()));
    drop(held);
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn stops_at_the_first_byte_too_many() {
    let budget = Budget::new(100, 0);
    let read = async |chunks: &[&'static str], max| {
        read(&mut upload(chunks), &Bounds { max, ..BOUNDS }, &mut budget.reserve()).await
    };
    assert_eq!(read(&["abcd"], 4).await.unwrap(), "abcd");
    assert_eq!(read(&["abcd"], 3).await, Err(Stopped::TooLarge));
    assert_eq!(read(&["ab", "cd"], 4).await.unwrap(), "abcd");
    assert_eq!(read(&["ab", "cd"], 3).await, Err(Stopped::TooLarge));
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn stops_when_the_budget_is_spent_by_others() {
    let budget = Budget::new(5, 0);
    let mut other = budget.reserve();
    other.grow(3).unwrap();
    assert_eq!(read(&mut upload(&["ab", "cd"]), &BOUNDS, &mut budget.reserve()).await, Err(Stopped::Busy));
    assert_eq!(budget.used(), 3);
}

/// Sends so many bytes after each of these milliseconds.
fn sending(after: Vec<(u64, usize)>) -> impl Stream<Item = io::Result<Bytes>> {
    stream::iter(after).then(|(millis, bytes)| async move {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        Ok(Bytes::from(vec![b' '; bytes]))
    })
}

#[tokio::test]
async fn who_sends_nothing_more_is_stopped_after_a_window_and_who_dribbles_too() {
    let budget = Budget::new(1_000_000, 0);
    let window = Duration::from_millis(300);
    let bounds = Bounds { max: 100_000, timeout: 10 * window, window, window_bytes: 1_000 };
    for (after, windows) in [
        (vec![], 1),
        // However much came at first.
        (vec![(0, 50_000)], 2),
        (vec![(100, 999)], 1),
        (vec![(50, 1); 60], 1),
        // Fast enough in each window, and not through in time.
        (vec![(30, 500); 200], 10),
    ] {
        let (begun, name) = (Instant::now(), format!("{after:?}"));
        let mut upload = Upload::new(Body::from_stream(sending(after).chain(stream::pending())));
        assert_eq!(read(&mut upload, &bounds, &mut budget.reserve()).await, Err(Stopped::Slow), "{name}");
        let took = begun.elapsed();
        assert!(took >= windows * window && (windows == 10 || took < bounds.timeout), "{took:?} {name}");
    }
    assert_eq!(budget.used(), 0);
}

#[tokio::test]
async fn a_network_that_stalls_for_most_of_a_window_is_waited_for() {
    let budget = Budget::new(1_000_000, 0);
    let window = Duration::from_secs(1);
    let bounds = Bounds { max: 100_000, timeout: 10 * window, window, window_bytes: 10_000 };
    let pieces = sending(vec![(500, 10_000), (1_000, 10_000), (700, 5)]);
    let body = read(&mut Upload::new(Body::from_stream(pieces)), &bounds, &mut budget.reserve()).await.unwrap();
    assert_eq!(body.len(), 20_005);
}

mod compressed {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn compress(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Identity => bytes.to_vec(),
            Coding::Gzip => gzip(bytes),
            Coding::Zstd => zstd::encode_all(bytes, 0).unwrap(),
        }
    }

    fn pieces(bytes: &[u8], size: usize) -> Upload {
        let pieces: Vec<_> =
            bytes.chunks(size).map(|piece| Ok::<_, io::Error>(Bytes::copy_from_slice(piece))).collect();
        Upload::new(Body::from_stream(stream::iter(pieces)))
    }

    async fn unpack(coding: Coding, bytes: &[u8], size: usize, max: usize) -> Result<Bytes, Stopped> {
        let budget = Budget::new(100_000_000, 0);
        let mut held = budget.reserve();
        let read = pieces(bytes, size).read(coding, &Bounds { max, ..BOUNDS }, &mut held).await?;
        assert_eq!(read.received, bytes.len());
        assert!(budget.used() >= read.body.len() && budget.used() <= 2 * read.body.len().max(PIECE), "accounted for");
        Ok(read.body)
    }

    fn problem(outcome: Result<Bytes, Stopped>) -> String {
        match outcome {
            Err(Stopped::Undecodable(undecodable)) => undecodable.problem,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn the_bound_is_exact_and_applies_to_what_comes_out() {
        let text = b"0123456789".repeat(50_000);
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = compress(coding, &text);
            for size in [1_000, usize::MAX] {
                assert_eq!(unpack(coding, &packed, size, text.len()).await.unwrap(), text);
                assert_eq!(unpack(coding, &packed, size, text.len() - 1).await, Err(Stopped::TooLarge));
            }
        }
    }

    #[tokio::test]
    async fn members_and_frames_one_after_another_are_one_body() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = [compress(coding, b"a"), compress(coding, b""), compress(coding, b"bc")].concat();
            for size in [1, 7, 1_000] {
                assert_eq!(unpack(coding, &packed, size, 1_000).await.unwrap(), "abc");
            }
        }
        let skipped = [&b"\x50\x2a\x4d\x18\x03\0\0\0xyz"[..], &compress(Coding::Zstd, b"abc")].concat();
        assert_eq!(unpack(Coding::Zstd, &skipped, 2, 1_000).await.unwrap(), "abc");
    }

    #[tokio::test]
    async fn what_is_cut_off_damaged_or_followed_by_something_else_is_refused() {
        let text = b"some text that is long enough to be compressed, compressed, compressed".repeat(10);
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = compress(coding, &text);
            for end in 1..packed.len() {
                let outcome = unpack(coding, &packed[..end], 13, 10_000).await;
                assert_eq!(problem(outcome), "it ends too early", "{coding:?} {end}");
            }
            let mut damaged = packed.clone();
            let middle = damaged.len() / 2;
            damaged[middle..].iter_mut().for_each(|byte| *byte = !*byte);
            problem(unpack(coding, &damaged, 13, 10_000).await);
            for garbage in [&b"xxxxxxxxxxxx"[..], b"\0\0\0\0\0\0\0\0", &text] {
                problem(unpack(coding, &[&packed, garbage].concat(), 13, 10_000).await);
            }
            problem(unpack(coding, &text, 1_000, 10_000).await);
        }
        let mut wrong_sum = gzip(&text);
        let sum = wrong_sum.len() - 8;
        wrong_sum[sum] ^= 1;
        assert_eq!(problem(unpack(Coding::Gzip, &wrong_sum, 1_000, 10_000).await), "it is damaged");
    }

    #[tokio::test]
    async fn input_without_output_has_a_bound_too() {
        let empty = gzip(b"").repeat(1_000);
        assert_eq!(unpack(Coding::Gzip, &empty, 999, empty.len()).await.unwrap(), "");
        assert_eq!(unpack(Coding::Gzip, &empty, 999, empty.len() - 1).await, Err(Stopped::TooLarge));
        let skipped = b"\x50\x2a\x4d\x18\0\0\0\0".repeat(1_000);
        assert_eq!(unpack(Coding::Zstd, &skipped, 999, 8_000).await.unwrap(), "");
        assert_eq!(unpack(Coding::Zstd, &skipped, 999, 7_999).await, Err(Stopped::TooLarge));
    }

    /// A stream that ends when the sender is heard no more, of zeros without end.
    fn bomb(coding: Coding) -> Upload {
        let megabyte = vec![0; 1 << 20];
        let piece = match coding {
            Coding::Zstd => zstd::encode_all(&megabyte.repeat(16)[..], 0).unwrap(),
            _ => gzip(&megabyte.repeat(16)),
        };
        // 16 MiB each, 640 times: 10 GiB.
        Upload::new(Body::from_stream(stream::iter(vec![Bytes::from(piece); 640]).map(Ok::<_, io::Error>)))
    }

    #[tokio::test]
    async fn a_bomb_costs_no_more_than_the_largest_body() {
        const MAX: usize = 1 << 20;
        for coding in [Coding::Gzip, Coding::Zstd] {
            // No room for more than that: else it would be `Busy`.
            let budget = Budget::new(MAX + 4 * (1 << 20), 0);
            let outcome =
                bomb(coding).read(coding, &Bounds { max: MAX, ..BOUNDS }, &mut budget.reserve()).await.map(|_| ());
            assert_eq!(outcome, Err(Stopped::TooLarge));
            assert_eq!(budget.used(), 0);
        }
    }

    #[tokio::test]
    async fn windows_are_bounded_and_accounted_for() {
        let frame = |log| {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.include_contentsize(false).unwrap();
            encoder.write_all(b"abc").unwrap();
            encoder.flush().unwrap();
            encoder.write_all(b"def").unwrap();
            encoder.finish().unwrap()
        };
        assert_eq!(unpack(Coding::Zstd, &frame(23), 5, 1_000).await.unwrap(), "abcdef");
        let problem = problem(unpack(Coding::Zstd, &frame(24), 5, 1_000).await);
        assert!(problem.contains("too much memory"), "{problem}");

        let budget = Budget::new(8 << 20, 0);
        let read = |log| {
            let (mut upload, budget) = (pieces(&frame(log), 5), Arc::clone(&budget));
            let bounds = Bounds { max: 1_000, ..BOUNDS };
            async move { upload.read(Coding::Zstd, &bounds, &mut budget.reserve()).await.map(|read| read.body) }
        };
        assert_eq!(read(23).await, Err(Stopped::Busy));
        assert_eq!(read(20).await.unwrap(), "abcdef");
    }

    #[tokio::test]
    async fn others_have_their_turn_while_a_large_body_is_decompressed() {
        let packed = gzip(&vec![b' '; 8 << 20]);
        let budget = Budget::new(1 << 30, 0);
        let bounds = Bounds { max: 16 << 20, ..BOUNDS };
        let mut held = budget.reserve();
        let mut upload = pieces(&packed, usize::MAX);
        let mut turns = 0;
        let others = async {
            loop {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            outcome = upload.read(Coding::Gzip, &bounds, &mut held) => assert_eq!(outcome.unwrap().body.len(), 8 << 20),
            () = others => {}
        }
        assert!(turns >= 30, "{turns}");
    }

    proptest! {
        #[test]
        fn what_was_compressed_comes_out_again_in_any_pieces(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..3_000),
                prop::collection::vec(0..3_u8, 0..3_000).prop_map(|bytes| bytes.repeat(100)),
            ],
            size in 1..5_000_usize,
            gzip: bool,
        ) {
            let coding = if gzip { Coding::Gzip } else { Coding::Zstd };
            let packed = compress(coding, &bytes);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let max = bytes.len().max(packed.len());
            prop_assert_eq!(runtime.block_on(unpack(coding, &packed, size, max)).unwrap(), bytes.clone());
            if bytes.len() > packed.len() {
                let outcome = runtime.block_on(unpack(coding, &packed, size, bytes.len() - 1));
                prop_assert_eq!(outcome, Err(Stopped::TooLarge));
            }
        }

        #[test]
        fn no_input_panics_or_gets_stuck(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            size in 1..50_usize,
            gzip: bool,
        ) {
            let coding = if gzip { Coding::Gzip } else { Coding::Zstd };
            let start = compress(coding, b"abcabcabc");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            for body in [&bytes[..], &[&start[..], &bytes].concat(), &[&start[..start.len() / 2], &bytes].concat()] {
                let _ = runtime.block_on(unpack(coding, body, size, 10_000));
            }
        }
    }
}
