//! What is remembered of an answer: little for the usual one, and not much for one with many rejections.

use crate::answer::{Rejection, Report, Why};
use crate::refusal::Refusal;
use std::mem::size_of;
use std::sync::Arc;

/// An answer, as far as the same request would get it again.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// Every event was accepted, or repeats another.
    Whole {
        accepted: u32,
        duplicates: u32,
    },
    WithRejections(Arc<Rejections>),
}

#[derive(Debug)]
pub(super) struct Rejections {
    accepted: usize,
    duplicates: usize,
    /// All, by their index.
    listed: Box<[(u32, Why)]>,
    /// Those of them of which more is said.
    explained: Box<[Rejection]>,
    /// The answer was no 202.
    refused: bool,
    /// No event can still be accepted.
    is_final: bool,
}

impl Kept {
    /// What to remember of an outcome; `None` if the same request is to be tried anew.
    pub(super) fn of(outcome: &Result<Report, Refusal>) -> Option<Kept> {
        let (report, refused) = match outcome {
            Ok(report) => (report, false),
            Err(Refusal::Invalid(report)) => (&**report, true),
            Err(_) => return None,
        };
        let Report { accepted, duplicates, rejected, .. } = report;
        if rejected.is_empty() && !refused {
            return Some(Kept::Whole { accepted: *accepted as u32, duplicates: *duplicates as u32 });
        }
        Some(Kept::WithRejections(Arc::new(Rejections {
            accepted: *accepted,
            duplicates: *duplicates,
            listed: rejected.iter().map(|rejection| (rejection.index, rejection.reason)).collect(),
            explained: rejected.iter().filter(|rejection| rejection.detail.is_some()).cloned().collect(),
            refused,
            is_final: rejected.iter().all(|rejection| rejection.reason.is_final()),
        })))
    }

    pub(super) fn is_final(&self) -> bool {
        match self {
            Kept::Whole { .. } => true,
            Kept::WithRejections(rejections) => rejections.is_final,
        }
    }

    pub(super) fn report(&self) -> Report {
        match self {
            Kept::Whole { accepted, duplicates } => {
                Report { accepted: *accepted as usize, duplicates: *duplicates as usize, ..Report::default() }
            }
            Kept::WithRejections(rejections) => {
                let Rejections { accepted, duplicates, explained, listed, .. } = &**rejections;
                let mut explained = explained.iter().peekable();
                let whole =
                    |(index, reason): &(u32, Why)| match explained.next_if(|rejection| rejection.index == *index) {
                        Some(rejection) => rejection.clone(),
                        None => Rejection { index: *index, id: None, reason: *reason, detail: None },
                    };
                let rejected = listed.iter().map(whole).collect();
                Report { accepted: *accepted, duplicates: *duplicates, rejected, replayed: false }
            }
        }
    }

    /// The answer once more.
    pub(super) fn replay(&self) -> Result<Report, Refusal> {
        let report = Report { replayed: true, ..self.report() };
        match self {
            Kept::WithRejections(rejections) if rejections.refused => Err(Refusal::Invalid(Box::new(report))),
            _ => Ok(report),
        }
    }

    /// What it occupies beside itself.
    pub(super) fn bytes(&self) -> usize {
        let Kept::WithRejections(rejections) = self else { return 0 };
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::capacity);
        let explained = |rejection: &Rejection| size_of::<Rejection>() + text(&rejection.id) + text(&rejection.detail);
        size_of::<Rejections>()
            + rejections.explained.iter().map(explained).sum::<usize>()
            + size_of_val(&*rejections.listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::DETAILED;
    use lake::event::Reason;

    fn report(rejected: usize, why: Why) -> Report {
        let mut report = Report { accepted: 1, duplicates: 2, ..Report::default() };
        for index in 0..rejected {
            report.reject(index, why, || (index % 2 == 0).then(|| format!("id-{index}")), || "x".repeat(100));
        }
        report
    }

    #[test]
    fn an_answer_comes_back_as_it_was_however_it_is_mixed() {
        let mut mixed = report(DETAILED + 10, Why::Invalid(Reason::InvalidTime));
        mixed.rejected.rotate_left(5);
        for (index, rejection) in mixed.rejected.iter_mut().enumerate() {
            rejection.index = index as u32 * 3;
        }
        for report in [Report::default(), report(0, Why::RateLimited), report(3, Why::RateLimited), mixed] {
            assert_eq!(Kept::of(&Ok(report.clone())).unwrap().report(), report);
        }
    }

    #[test]
    fn an_answer_with_many_rejections_takes_little_for_those_that_are_not_explained() {
        let kept = Kept::of(&Ok(report(50_000, Why::Invalid(Reason::InvalidTime)))).unwrap();
        assert!(kept.bytes() < DETAILED * 200 + 50_000 * 8 + 1_000, "{}", kept.bytes());
        assert!(kept.bytes() > DETAILED * 100 + 50_000 * 8, "{}", kept.bytes());
    }

    #[test]
    fn only_what_would_be_the_same_again_is_final_and_refusals_to_come_back_from_are_not_kept() {
        let invalid = || report(1, Why::Invalid(Reason::InvalidTime));
        assert!(Kept::of(&Ok(invalid())).unwrap().is_final());
        assert!(!Kept::of(&Ok(report(1, Why::RateLimited))).unwrap().is_final());
        assert!(!Kept::of(&Ok(report(1, Why::LogUnavailable))).unwrap().is_final());
        let refused = Kept::of(&Err(Refusal::Invalid(Box::new(invalid())))).unwrap();
        assert!(matches!(refused.replay(), Err(Refusal::Invalid(report)) if report.replayed));
        let retry_after = std::time::Duration::from_secs(1);
        for refusal in [
            Refusal::Busy { retry_after },
            Refusal::LogUnavailable { retry_after, report: Some(Box::new(invalid())) },
            Refusal::BodyTooSlow,
            Refusal::Panicked,
        ] {
            assert!(Kept::of(&Err(refusal)).is_none());
        }
    }
}
