import linrec = require("linrec");

const engine: Promise<linrec.Engine> = linrec.createEngine({ threads: 0 });

export = engine;
