//! What the compactor knows of a table: its latest version, and when files left it.

use lake::{Keep, Table, TableError, TableState};
use std::time::{Duration, Instant};

/// Asking the log for removals reads every commit of some hours, so it is done only when some may have been missed: at
/// the start, and when the state was read anew instead of commit by commit. Whoever does not ask for so long, because
/// another compactor sweeps the table, need not remember them.
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);

/// The log is asked for so much more, lest it leaves out what happened at the border.
pub(crate) const CLOCK_MARGIN: Duration = Duration::from_secs(3600);

/// A table as it was seen last.
#[derive(Debug)]
pub struct View {
    pub state: TableState,
    asked_at: Instant,
}

impl View {
    pub async fn load(table: &Table) -> Result<View, TableError> {
        let state = table.load(Keep::Files, &[]).await?;
        Ok(View { state, asked_at: Instant::now() })
    }

    /// Brings it to the latest version.
    pub async fn refresh(&mut self, table: &Table) -> Result<(), TableError> {
        table.refresh(&mut self.state).await?;
        if self.asked_at.elapsed() > LONGEST_PAUSE {
            self.state.forget_all_removed();
        }
        Ok(())
    }

    /// Makes sure that every removal of the last `retention` is known, and when it was.
    pub async fn learn_removals(&mut self, table: &Table, retention: Duration) -> Result<(), TableError> {
        self.asked_at = Instant::now();
        if !self.state.knows_removals() {
            table.load_removals(&mut self.state, retention.saturating_add(CLOCK_MARGIN)).await?;
        }
        table.date_removals(&mut self.state).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lake::{Change, DataFile, Lake, Outcome, schema};

    fn file() -> DataFile {
        DataFile {
            path: "date=2026-11-22/a.parquet".to_owned(),
            size: 1,
            date: "2026-11-22".parse().unwrap(),
            modified_ms: 0,
            stats: Default::default(),
            ranges: Vec::new(),
            sorted_by: Vec::new(),
        }
    }

    #[tokio::test]
    async fn who_does_not_sweep_forgets_removals_and_learns_them_from_the_log_when_it_does() {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::open(directory.path().to_str().unwrap()).unwrap();
        let table = Table::open_or_create(&lake, "events__dead", schema::dead()).await.unwrap();
        let mut view = View::load(&table).await.unwrap();
        let add = Change { operation: "WRITE", adds: vec![file()], ..Change::default() };
        let remove = Change { operation: "DELETE", removes: vec![file()], ..Change::default() };
        for change in [add, remove] {
            assert_eq!(table.commit(&mut view.state, &change).await.unwrap(), Outcome::Committed);
        }
        view.refresh(&table).await.unwrap();
        assert_eq!(view.state.removed().len(), 1);

        let long_ago = Instant::now().checked_sub(LONGEST_PAUSE + Duration::from_secs(1));
        // A machine that has just started cannot tell of such a time.
        let Some(long_ago) = long_ago else { return };
        view.asked_at = long_ago;
        view.refresh(&table).await.unwrap();
        assert_eq!(view.state.removed().len(), 0);
        view.learn_removals(&table, Duration::from_secs(60)).await.unwrap();
        assert_eq!(view.state.removed().len(), 1);
    }
}
