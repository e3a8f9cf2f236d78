//! Owns the order in which OpenKruiseGame scales down:
//! <https://openkruise.io/kruisegame/user-manuals/gameservers-scale>.

use serde_json::Value;

/// opsStates, the first to be deleted first. Any other counts as None.
const ORDER: [&str; 5] = ["Kill", "WaitToBeDeleted", "None", "Allocated", "Maintaining"];

/// The indexes of the GameServers in the order in which they are deleted: by opsState, then the highest deletionPriority,
/// then the highest index.
pub(crate) fn order(game_servers: &[Value]) -> Vec<usize> {
    let mut indexes: Vec<usize> = (0..game_servers.len()).collect();
    indexes.sort_by_key(|&index| {
        let spec = &game_servers[index]["spec"];
        let place = |state: &str| ORDER.iter().position(|known| *known == state);
        let by_state = spec["opsState"].as_str().and_then(place).or_else(|| place("None"));
        (by_state, -spec["deletionPriority"].as_i64().unwrap_or(0), std::cmp::Reverse(index))
    });
    indexes
}
