"""From a config to a result: schedules, objective, loop, checkpoint, grid."""
