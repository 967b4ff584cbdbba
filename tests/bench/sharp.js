// node sharp.js SHARP WORK: WORK is JSON {source, chain, repeat, loops, output}. Prints the milliseconds of each render,
// after some to warm up, and of all of them together; `loops` of them run side by side.
const [sharpPath, text] = process.argv.slice(2);
const { source, chain, repeat, loops = 1, output } = JSON.parse(text);
const sharp = require(sharpPath);
const { writeFileSync } = require('node:fs');
// One thread for one image: what runs side by side are the loops.
sharp.concurrency(1);
// Otherwise the second repeat would find the first one's decoded picture.
sharp.cache(false);
const render = new Function('image', `return image.${chain}.toBuffer()`);
const now = () => Number(process.hrtime.bigint()) / 1e6;

(async () => {
    let made;
    for (let i = 0; i < (repeat < 6 ? 1 : 3); i++) made = await render(sharp(source));
    if (output) writeFileSync(output, made);
    const ms = [];
    const loop = async () => {
        for (let i = 0; i < repeat; i++) {
            const start = now();
            await render(sharp(source));
            ms.push(now() - start);
        }
    };
    const start = now();
    await Promise.all(Array.from({ length: loops }, loop));
    console.log(JSON.stringify({ ms, total: now() - start, bytes: made.length }));
})();
