const linrec = require("linrec");

import("./forward.mjs").then(async ({ forward }) => console.log(await forward(linrec)));
