// node page.js SHARP SPECS: for each line {"source", "threads", "at_once"} of the input, makes the renditions of one image
// and answers with the milliseconds that all of them took.
const [sharpPath, chains] = process.argv.slice(2);
const sharp = require(sharpPath);
// Otherwise the second size would find the first one's decoded picture, which no site's process keeps between requests.
sharp.cache(false);
const makers = JSON.parse(chains).map(chain => new Function('image', `return image.${chain}.toBuffer()`));

require('readline').createInterface({ input: process.stdin }).on('line', async line => {
    const { source, threads, at_once } = JSON.parse(line);
    sharp.concurrency(threads);
    const start = process.hrtime.bigint();
    let bytes = [];
    if (at_once) {
        bytes = (await Promise.all(makers.map(make => make(sharp(source))))).map(each => each.length);
    } else {
        for (const make of makers) bytes.push((await make(sharp(source))).length);
    }
    console.log(JSON.stringify({ ms: Number(process.hrtime.bigint() - start) / 1e6, bytes }));
});
