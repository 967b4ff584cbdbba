// node sharp.js SHARP SOURCE CHAIN REPEAT: milliseconds of each repeat, after three to warm up.
const [sharpPath, source, chain, repeat] = process.argv.slice(2);
const sharp = require(sharpPath);
sharp.concurrency(1);
// Otherwise the second repeat would find the first one's decoded picture.
sharp.cache(false);
const render = new Function('image', `return image.${chain}.toBuffer()`);

(async () => {
    const ms = [];
    let bytes = 0;
    for (let i = -3; i < Number(repeat); i++) {
        const start = process.hrtime.bigint();
        const output = await render(sharp(source));
        if (i >= 0) ms.push(Number(process.hrtime.bigint() - start) / 1e6);
        bytes = output.length;
    }
    console.log(JSON.stringify({ ms, bytes }));
})();
