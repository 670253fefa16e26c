//! What the compactor knows of a table: its latest version, and when files left it.

use lake::table::now_ms;
use lake::{Keep, Table, TableError, TableState};
use std::time::{Duration, Instant};

/// Asking the log for removals reads every commit of some hours, so it is done only when some may have been missed: at
/// the start, and after a pause so long that the state is loaded anew instead of commit by commit.
const LONGEST_PAUSE: Duration = Duration::from_secs(30 * 60);

/// Clocks of those who remove files may be behind by so much.
pub(crate) const CLOCK_MARGIN: Duration = Duration::from_secs(3600);

/// A table as it was seen last.
#[derive(Debug)]
pub struct View {
    pub state: TableState,
    seen_at: Instant,
    knows_removals: bool,
}

impl View {
    pub async fn load(table: &Table) -> Result<View, TableError> {
        let state = table.load(Keep::Files, &[]).await?;
        Ok(View { state, seen_at: Instant::now(), knows_removals: false })
    }

    /// Brings it to the latest version.
    pub async fn refresh(&mut self, table: &Table) -> Result<(), TableError> {
        if self.seen_at.elapsed() > LONGEST_PAUSE {
            self.knows_removals = false;
        }
        table.refresh(&mut self.state).await?;
        self.seen_at = Instant::now();
        Ok(())
    }

    /// Makes sure that every removal of the last `retention` is known.
    pub async fn learn_removals(&mut self, table: &Table, retention: Duration) -> Result<(), TableError> {
        if !self.knows_removals {
            let since_ms = now_ms() - (retention + CLOCK_MARGIN).as_millis() as i64;
            table.load_removals(&mut self.state, since_ms).await?;
            self.knows_removals = true;
        }
        Ok(())
    }
}
