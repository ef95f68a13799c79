"""base(): the complete, commented configuration tree. Every config file starts from it.

The tree is locked: a key that does not exist here is refused, in config files and on the command line alike. None means
"not used"; a key that the chosen data set does not support must stay None (`config.resolve` checks this).
"""

import json

from ml_collections import ConfigDict, config_dict


def _optional(kind, value=None):
    """A key that may be None or hold a value of one type."""
    holder = config_dict.placeholder(kind)
    return holder if value is None else value


def base() -> ConfigDict:
    c = ConfigDict()
    c.name = ""  # the experiment's name; the config file's name when empty
    c.seed = 0  # random seed of initial weights, sample order, augmentation and dropout
    c.variant = ""  # set by the config file from its arguments, for the record ("quick")

    c.embedded = ()  # ((key, value), ...): values that replace this tree's where data.root is empty (training on the phantom)

    c.data = data = ConfigDict()
    data.dataset = "ct_ich"  # a module of jaxseg.data.datasets, "my_module:load", or auto (detects the layout of your data)
    data.readers = ()  # readers for file formats of your own: ((".suffix", "my_module:read"), ...)
    data.root = ""  # folder of the real data; empty: the data set's embedded phantom, if it has one
    data.rank = 2  # 2: slices and photographs; 3: volumes
    data.fit = "stretch"  # rank 2: stretch (to `size`), centre (`spacing`, then a canvas of `size`) or patches; rank 3: patches
    data.size = (128, 128)  # (H, W) of the network's input (of a patch), pixels; rank 3: (X, Y, Z) of a patch, voxels
    data.channels = 1  # input channels, without those of data.coordinates; None: as many as your own images have
    data.intensity = "grey"  # grey (8-bit, after `window`), brain (z-scores per modality inside the brain), ct (-1..1), or
    # nnU-Net's and MONAI's: zscore, zscore_nonzero, zscore_own_nonzero, ct_zscore, rescale_to_01, rgb_to_01, none; auto: chosen
    # from your own images. Rank 3: these may differ by channel, joined by + in the order of the channels; MONAI's percentiles and
    # percentiles_unclipped too, and rules that look at whole scans one after the other: zscore_own_nonzero>percentiles
    data.statistics = ()  # of each channel: ct_zscore (lowest, highest, mean, std), percentiles (lower, upper, to from, to)
    data.window = (40.0, 120.0)  # CT: (level, width) in HU -> 0..255; () for 8-bit images
    data.spacing = ()  # fit centre, patches: resample to (row mm, column mm), rank 3 (x, y, z) mm; (), patches: keep the grid
    data.mean = ()  # per channel, for images in 0..1: subtracted after augmentation
    data.std = ()  # per channel: the image is divided by it after the mean is subtracted
    data.filter = "linear"  # interpolation: linear, lanczos, nnunet (splines; a coarse axis separately), monai, monai_last
    data.orientation = "lps"  # rank 3: orientation of a volume's axes: lps, ras, or file (as stored)
    data.axes = ()  # rank 3: order of the volume's axes for the network; size, spacing and infer.mirror use it; (): (0, 1, 2)
    data.nonzero = False  # rank 3: first crop each volume to the bounding box of its non-zero voxels
    data.above = ()  # rank 3: crop to the box of voxels above a value: (scan: first, grid: after resampling; value; margin)
    data.plane = ""  # rank 2: plane of the slices of volumes: axial coronal sagittal; empty: axial, other volumes are refused
    data.crop = ()  # rank 2: first crop each slice to its central (rows, columns); (): the whole slice
    data.blur = 0.0  # rank 2: standard deviation of a Gaussian blur, pixels of the slice; 0: none
    data.extra = ()  # rank 2: channels computed from the image, counted in `channels`: kmeans edge painted_edge autoencoder
    data.extra_run = ""  # folder of the run whose network computes the channel edge, painted_edge or autoencoder
    data.target = "labels"  # rank 2: training target: labels, edges (of the labels), composite (image blended with the labels)
    data.min_area = _optional(int)  # brats, brats_arrays: keep slices in which a class has more pixels; None: all slices
    data.sample = _optional(float)  # brats, brats_arrays: fraction of those slices that is drawn at random
    data.sample_seed = _optional(int)  # random seed of that draw
    data.normalise = _optional(str)  # brats_arrays: brain (compute z-scores), given (the arrays already hold them), auto
    data.protocol = _optional(str)  # ct_ich: "only" (slices with a bleed) or "all"
    data.structures = _optional(tuple)  # names of the classes 1, 2, ... (organs_ct: which organs; lungs; folder; scoliosis)
    data.mask_values = _optional(tuple)  # folder: class of each mask value: ((value or palette index or "#rrggbb", class), ...)
    data.suffixes = _optional(tuple)  # folder: file name suffixes of a case's channels, in channel order: ("_t1", "_flair")
    data.patient = _optional(str)  # your own data: a column, or a regular expression with one group, that gives the patient
    data.ignore = _optional(str)  # nnunet_raw, decathlon: the ignore label: "leave_out" of losses and scores, "background"
    data.naming = _optional(str)  # lungs: left and right are the "patient"'s or the "image"'s
    data.missing_masks = _optional(str)  # folder, table, scoliosis: images without a mask: "skip" them, "empty": nothing is there
    data.modalities = _optional(tuple)  # brats: the modalities to read, in channel order, e.g. ("t1ce", "flair")
    data.release = _optional(str)  # brats: "2023" or "2024", where the file names do not show the release
    data.regions = ()  # one sigmoid logit per region (WT, TC, ET) instead of a softmax over the classes: () for none,
    # ("dataset",) for those that the data set defines, or ((name, (class, ...)), ...) with names or numbers of classes
    data.coordinates = False  # rank 3: add three channels with each voxel's position in the whole volume (CoordConv)
    data.previous = ()  # rank 3: runs whose labels, a channel for each class, follow the image's channels (nnU-Net's cascade)
    data.previous_labels = ""  # folder of such labels to train with, CASE.nii.gz or fold_N/validation/; empty: those of the runs
    data.whole = False  # rank 3, fit stretch: every volume is one example, resized to `size` (region-of-interest networks)
    data.per_volume = 16  # patches drawn from each volume (slice, picture) per epoch
    data.foreground = 1 / 3  # fraction of the patches that are centred on a foreground voxel
    data.positions = "uniform"  # start of the other patches: uniform, centre_clipped (uniform centre, then moved inside)
    data.phantom = _optional(str)  # which embedded phantom when root is empty: "default" or "quick"
    data.bad_cases = "stop"  # files that cannot be used: stop at the first, or skip their cases and say which
    data.bad_share = 0.05  # bad_cases "skip": the largest share of the cases that may be bad
    data.split = "patient"  # patient (drawn, stratified), fold, fixed (by the data set), file, slice_level (leaks); auto
    data.split_file = ""  # split "file": JSON with lists of patients under train, val and test, such as a run's splits.json
    data.folds = 5  # split "fold": number of folds
    data.fold = 0  # split "fold": fold `fold` is the test split, the next one the validation split, the others train
    data.split_seed = 0  # random seed of the split alone, so that runs with different seeds share one split
    data.fractions = (0.7, 0.1, 0.2)  # fractions of the patients for train, val and test
    data.max_samples = 0  # largest number of training examples (0: all)
    data.transforms = ()  # your own transforms of training examples on the host, before train.augment: (("my_module:f", {}), ...)
    data.store_engine = "memmap"  # how prepared examples lie on the disk: memmap, zarr3 (compressed; for slow disks)
    data.store_address = ""  # zarr3: where arrays lie: gs://bucket/folder, s3://bucket/folder, file:///folder; "": in the cache
    data.store_dtype = "float32"  # fit patches: of prepared images; float16 halves the bytes and rounds, by what a line tells
    data.workers = 0  # Grain worker processes; 0: read in the main process
    data.prepare_workers = 0  # processes that prepare cases, once; 0: as the cores and the memory allow, if it is worth it

    c.model = model = ConfigDict()
    model.name = "segnext_t_ich"  # a registry name, "encoder+decoder", or "my_module:MyNet"
    model.options = ConfigDict()  # fields of the family's Config to override, e.g. {"dropout": 0.2}
    model.softmax = False  # with a single class: two softmax logits instead of one sigmoid logit
    model.init = ""  # initial weights: a run folder, checkpoint, .pth / .safetensors file, or pretrained:efficientnet_lite0

    c.loss = loss = ConfigDict()
    loss.terms = (("dice", 1.0),)  # (name in jaxseg.losses.TERMS or "my_module:function", weight), summed
    loss.options = ConfigDict()  # keyword arguments by term: {"focal": {"gamma": 2.0}}
    loss.aux_weights = ()  # weights of auxiliary or deep-supervision outputs, in the network's order
    loss.learnable = ()  # ((term, initial x), ...): trained weights 2 (sigmoid(x) + 1/2), one for every term
    loss.aux_terms = ()  # terms of the auxiliary outputs, written like loss.terms; (): those of the main output

    c.optim = optim = ConfigDict()
    optim.name = "adam"  # adam adamw adagrad sgd, or a factory: "optax:lion", "my_module:factory"
    optim.lr = 1e-4  # peak learning rate
    optim.options = ConfigDict()  # keyword arguments of the optimiser: {"b1": 0.9}
    optim.weight_decay = 0.0  # decoupled for adamw, added to the gradient for the others (as PyTorch does)
    optim.groups = ()  # ((regex of parameter names, {"lr": factor, "decay": factor}), ...): first match wins; unmatched: factor 1
    optim.clip_norm = 0.0  # clip the global gradient norm to this value (0: off)
    optim.accumulate = 1  # micro-batches per update (gradient accumulation)
    optim.ema = 0.0  # decay of the moving average of the weights, which is then evaluated and exported (0: off)

    c.schedule = schedule = ConfigDict()
    schedule.name = "constant"  # constant poly cosine step plateau, or a factory: "optax:exponential_decay"
    schedule.warmup = 0  # steps of linear warm-up
    schedule.warmup_ratio = 1e-6  # warm-up: learning rate at step 0, as a fraction of optim.lr
    schedule.options = ConfigDict()  # poly: {"power": 1.0}; cosine: {"final": 0.0, "period": epochs}; plateau: factor ...

    c.train = train = ConfigDict()
    train.epochs = 100
    train.batch_size = 16  # global: over all devices and processes
    train.dtype = "auto"  # compute dtype: float32 or bfloat16; auto: bfloat16 on a GPU or TPU (norms and losses stay float32)
    train.augment = ()  # (name in jaxseg.augment.TRANSFORMS or "my_module:Class", probability, options), in order, on the device
    train.remat = ()  # less memory, more time: layers computed again for the gradient: "blocks", or names ("encoder.stages.*")
    train.bn_warmup = 0  # batches that update the BatchNorm statistics alone, before the first step
    train.eval_every = 1  # epochs between validations
    train.best = "val_loss"  # criterion for the best checkpoint: val_loss, val_dice, val_recall, last
    train.save_every = 1  # epochs between checkpoints
    train.keep = 2  # number of newest checkpoints to keep beside the best
    train.log_every = 20  # steps between progress lines
    train.alarm_after = 3  # warn after this many validations in a row that predict only background (0: never)
    train.stop_nonfinite = 5  # stop after this many steps in a row with a non-finite gradient (0: never)
    train.watchdog = _optional(int)  # seconds without a finished step before the process ends with 75 (0: off); None: 600 with
    # several processes, off with one. Before the first step and in a validation the limit is at least 1800

    c.eval = evaluate = ConfigDict()
    evaluate.batch_size = 8
    evaluate.thresholds = (0.5, 0.6, 0.7, 0.8, 0.9)  # probability thresholds of the tables
    evaluate.threshold = 0.5  # probability threshold of the main scores, for one class and regions (several classes: the largest)
    evaluate.metrics = ()  # further scores of your own for every example and class: ("my_module:function", ...)
    evaluate.tables = ("ich",)  # rank 2: tables of published projects to print too: ich classes left_right effisegnet
    evaluate.empty = "one"  # score of an image with empty truth and empty prediction: one, zero, nan (left out)
    evaluate.split = "test"  # the split to evaluate: train, val or test
    evaluate.surface = True  # rank 3: also HD95 (mm) and normalised surface Dice
    evaluate.lesions = ""  # rank 3: lesion-wise scores by the rules of this BraTS challenge (GLI, SSA, MEN, PED, MET)
    evaluate.keep = 10  # keep pictures of this many of the worst examples and of those around the median, for the page; 0: none
    evaluate.postprocess = False  # choose post-processing on the validation split and apply it to the evaluated split

    c.infer = infer = ConfigDict()
    infer.batch_size = 8
    infer.probabilities = False  # write probability maps beside the labels
    infer.overlay = True  # write overlay pictures
    infer.statistics = False  # write volumes (ml) or areas (pixels, mm2) and mean intensities of the structures (--statistics)
    infer.uncertainty = ""  # write uncertainty maps: entropy (bits), or variance over the runs of infer.ensemble (--uncertainty)
    infer.roi = ""  # rank 3: folder of a run of configs/brats_roi.py: also apply the cascade, which crops around its prediction
    infer.max_instances = 3  # cascade: the largest number of regions around which a crop is segmented, the largest regions first
    infer.min_size = 0  # cascade: drop regions of fewer voxels of the first network's input; 0: 50 at 64^3, alike elsewhere
    infer.merge = "max"  # cascade: overlapping crops take the largest logit (max) or the mean probability
    infer.ensemble = ()  # predict: further run folders (folds, seeds) whose logits are averaged with this run's
    infer.postprocess = False  # apply the post-processing that --mode=evaluate chose
    infer.overlap = 0.25  # patches: fraction of a window by which neighbouring windows overlap
    infer.blend = "gaussian"  # patches: constant gaussian gaussian_nnunet cosine half_cosine
    infer.positions = "monai"  # patches: monai nnunet
    infer.sums = "float32"  # patches: how exactly windows are summed; float16 rounds as nnU-Net does, for its own networks
    infer.whole = False  # patches: apply the network to each image in one piece instead; mesh.space spreads it over devices
    infer.windows = 2  # patches: windows per forward pass; whole volumes too
    infer.mirror = ()  # test-time augmentation: average over flips of these axes, e.g. (0, 1, 2)
    infer.accumulator = "auto"  # patches: where the logits of the windows are summed: auto device host memmap

    c.search = search = ConfigDict()  # --mode=search: Bayesian optimisation of any keys
    search.space = ()  # ((key, "log", "float" or "int", low, high), (key, "choice", values), ...); (): the class weights of the
    # cross-entropy; a key may lead into options and tuples: "loss.options.focal.gamma", "loss.terms.0.1"
    search.trials = 20  # number of trials; each is a training run
    search.objective = "val_dice"  # what is maximised, at a trial's best checkpoint: val_dice or val_recall
    search.prune = True  # end a trial whose validation is below the median of earlier trials, after a fifth of its epochs
    search.low = 0.1  # class weights: the smallest of a foreground class (background: always 1)
    search.high = 30.0  # class weights: the largest; they are searched on a logarithmic scale

    c.compare = compare = ConfigDict()  # --mode=compare: every model (or variant) with every seed and fold, side by side
    compare.models = ()  # names of networks (`jaxseg zoo`); (): the config's own network
    compare.seeds = ()  # random seeds; (): the config's own
    compare.folds = 0  # number of cross-validation folds; 0: the config's own split
    compare.fold = ()  # folds to run, each as the test split of one run; (): all
    compare.vary = ()  # variants of the config: ((label, ((key, value), ...)), ...), e.g. (("large lr", (("optim.lr", 0.01),)),)
    compare.published = ()  # figures to show beside ours: ((row, (("Dice", 0.94), ...)), ...); they are not compared
    compare.measure = False  # measure memory and latency of every model on this device (compiles two more programs for each)

    c.explain = explain = ConfigDict()  # --mode=explain: Seg-Grad-CAM maps of what a run predicts
    explain.layer = ""  # dotted name of the layer whose output is looked at; empty: the deepest feature map
    explain.region = "predicted"  # voxels over which a class's logit is summed: those predicted to be of the class, or all

    c.report = report = ConfigDict()  # --mode=report, and the pages of compare and explain; names: also the tables of other modes
    report.names = "plain"  # of cases and patients, in tables, pages and figures: plain, or hash (# and ten digits instead)
    report.before = ""  # --mode=report: another run on the same cases; the page sets this run beside it, case by case
    report.pictures = True  # show the pictures that evaluation kept; False: tables and charts alone
    report.megabytes = 25.0  # the page's size: pictures that do not fit any more are left out, the worst cases come first

    c.plan = plan = ConfigDict()  # --mode=plan: spacing, patch, batch and network for your own data, by nnU-Net's rules
    plan.rules = "device"  # "device": fit the plan to this machine; "nnunet": as nnunetv2 plans for its own, whatever is here
    plan.memory_gb = _optional(float)  # memory of another GPU than this machine's, in GB, by nnU-Net's estimate
    plan.minutes = _optional(float)  # minutes that training may take here; 0: nnU-Net's 1000 epochs; None: 10 on a CPU, else 0

    c.mesh = mesh = ConfigDict()
    mesh.data = 0  # number of parts into which a batch is split, each for mesh.space devices; 0: all devices
    mesh.space = 1  # number of devices that compute each image together, every one its rows along the first axis
    mesh.join = 0  # several processes: seconds within which all must have started; 0: 120, with Slurm 300
    mesh.heartbeat = 100  # several processes: seconds without a sign of life after which a process counts as lost
    mesh.shard_state = False  # split parameters and optimiser state over the devices, instead of a copy on each device

    c.defaults = json.dumps(c.to_dict())  # the values above, from which an experiment's differences are listed
    return c.lock()
