"""Studies: many runs of the training commands, their results and figures. Needs `[sweep]`."""
