"""The recipe of the embedded pipeline: from emoji artwork to the weights that ship.

Run it with `python -m diffusers_erasure.embedded.train`; the stages, each one module, in order:

    artwork    download the npm packages that hold the drawings, and unpack them
    raster     SVG to pixels; augmentation and composition onto backgrounds
    captions   the caption grammar
    dataset    the banks of pictures that the networks are trained on
    tokenizer  a CLIP-style byte-level BPE trained on the captions
    loop       the one training loop: two processes, checkpoints, resume, progress
    vae        the autoencoder
    judges     two concept judges and a style judge
    text       the text encoder
    diffusion  the UNet
    pack       fp16 weights, sha256, attribution
    measure    what the pipeline must reach (`diffusers-erasure embedded evaluate`)
    sheets     contact sheets to look at
"""
