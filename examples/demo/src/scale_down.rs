//! Owns the order in which OpenKruiseGame scales down: `DeleteSequenceGs` in
//! <https://github.com/openkruise/kruise-game/blob/master/pkg/util/gameserver.go>.

use std::cmp::Reverse;

use serde_json::Value;

/// opsStates, the first to be deleted first. Any other counts as None.
const STATES: [&str; 5] = ["Kill", "WaitToBeDeleted", "None", "Allocated", "Maintaining"];

/// The indexes of the GameServers in the order in which they are deleted: by opsState, then the highest deletionPriority,
/// then the highest index.
pub(crate) fn order(game_servers: &[Value]) -> Vec<usize> {
    let place = |state: &str| STATES.iter().position(|known| *known == state);
    let mut indexes: Vec<usize> = (0..game_servers.len()).collect();
    indexes.sort_by_key(|&index| {
        let spec = &game_servers[index]["spec"];
        let by_state = spec["opsState"].as_str().and_then(place).or_else(|| place("None"));
        (by_state, Reverse(spec["deletionPriority"].as_i64()), Reverse(index))
    });
    indexes
}
