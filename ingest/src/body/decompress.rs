//! Takes compressed bytes as they come and gives what is in them, a bounded piece at a time.
//!
//! Pure: bytes in, bytes out, so that whoever calls decides how much memory and how much time in one go it may take. A
//! body may consist of several members (gzip) or frames (zstd) one after another, as files that were appended to do.
//! Whatever else follows is refused, and so is an end in the middle: a body is taken whole or not at all.

use crate::body::coding::Coding;
use flate2::{Decompress, FlushDecompress, Status};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

/// The largest window of a zstd frame: what RFC 9659 allows in HTTP. The frame itself may ask for two gigabytes.
const ZSTD_WINDOW_LOG: u32 = 23;
/// The largest window of gzip.
const GZIP_WINDOW_LOG: u8 = 15;
/// How every member of gzip begins.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
/// What a gzip decoder occupies: its window and its tables.
const GZIP_BYTES: usize = 64 * 1024;
/// The most that a decoder occupies: the largest window of zstd, and what it keeps beside it.
pub(crate) const DECODER_BYTES: usize = 9 << 20;

/// A body is not what its coding demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Undecodable {
    pub(crate) coding: &'static str,
    /// About how many compressed bytes were understood.
    pub(crate) at: usize,
    pub(crate) problem: String,
}

/// Decompresses one body.
pub(crate) struct Decoder {
    engine: Engine,
    /// In the middle of a member or frame.
    open: bool,
    /// Compressed bytes so far.
    consumed: usize,
}

enum Engine {
    Gzip(Decompress),
    Zstd(DCtx<'static>),
}

/// How far one step came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) consumed: usize,
    pub(crate) produced: usize,
    /// There may be more to get without further input.
    pub(crate) more: bool,
}

impl Decoder {
    /// `None` for a body that is not compressed.
    pub(crate) fn new(coding: Coding) -> Option<Decoder> {
        let engine = match coding {
            Coding::Identity => return None,
            Coding::Gzip => Engine::Gzip(Decompress::new_gzip(GZIP_WINDOW_LOG)),
            Coding::Zstd => {
                let mut context = DCtx::create();
                // The parameter is in the range that the library accepts, which a test asserts.
                let _ = context.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG));
                Engine::Zstd(context)
            }
        };
        Some(Decoder { engine, open: false, consumed: 0 })
    }

    /// Takes what it can of `input`, and writes no more than `output` holds. Ends early after each member or frame.
    pub(crate) fn step(&mut self, input: &[u8], output: &mut [u8]) -> Result<Step, Undecodable> {
        if !self.open && input.is_empty() {
            return Ok(Step { consumed: 0, produced: 0, more: false });
        }
        let opens = !self.open;
        let outcome = match &mut self.engine {
            Engine::Gzip(inflate) => gunzip(inflate, opens, input, output),
            Engine::Zstd(context) => unzstd(context, input, output),
        };
        let (consumed, produced, ended) = outcome.map_err(|problem| self.undecodable(problem))?;
        if !ended && consumed == 0 && produced == 0 && !input.is_empty() && !output.is_empty() {
            return Err(self.undecodable("it does not go on"));
        }
        self.open = !ended;
        self.consumed += consumed;
        Ok(Step { consumed, produced, more: !ended && produced == output.len() })
    }

    /// To be asked when there is no more input.
    pub(crate) fn finish(&self) -> Result<(), Undecodable> {
        if self.open { Err(self.undecodable("it ends too early")) } else { Ok(()) }
    }

    /// The bytes that the decoder itself occupies now.
    pub(crate) fn occupies(&self) -> usize {
        match &self.engine {
            Engine::Gzip(_) => GZIP_BYTES,
            Engine::Zstd(context) => context.sizeof(),
        }
    }

    fn undecodable(&self, problem: &str) -> Undecodable {
        let coding = match self.engine {
            Engine::Gzip(_) => Coding::Gzip,
            Engine::Zstd(_) => Coding::Zstd,
        };
        Undecodable { coding: coding.as_str(), at: self.consumed, problem: problem.to_owned() }
    }
}

/// How much was consumed and produced, and whether the member has ended; or the problem.
type Outcome = Result<(usize, usize, bool), &'static str>;

fn gunzip(inflate: &mut Decompress, opens: bool, input: &[u8], output: &mut [u8]) -> Outcome {
    if opens && inflate.total_in() > 0 {
        inflate.reset(true);
    }
    let (consumed, produced) = (inflate.total_in(), inflate.total_out());
    let status = match inflate.decompress(input, output, FlushDecompress::None) {
        Ok(status) => status,
        Err(_) if opens && !input.starts_with(&GZIP_MAGIC) => return Err("there is no header where one should be"),
        Err(_) => return Err("it is damaged"),
    };
    let moved = |total: u64, before: u64| (total - before) as usize;
    Ok((moved(inflate.total_in(), consumed), moved(inflate.total_out(), produced), status == Status::StreamEnd))
}

fn unzstd(context: &mut DCtx<'_>, input: &[u8], output: &mut [u8]) -> Outcome {
    let (mut from, mut to) = (InBuffer::around(input), OutBuffer::around(output));
    let hint = context.decompress_stream(&mut to, &mut from).map_err(get_error_name)?;
    Ok((from.pos(), to.pos(), hint == 0))
}
